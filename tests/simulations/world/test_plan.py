"""What goes wrong is drawn beforehand, and nothing shifts when something is taken away."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from p2pnode.errors import UsageError
from simulations.world.options import WorldOptions
from simulations.world.plan import ALWAYS, MENU, cast, plan

SEEDS = range(1, 201)


def test_a_seed_has_one_plan() -> None:
    assert plan(WorldOptions(seed=7)) == plan(WorldOptions(seed=7))
    assert plan(WorldOptions(seed=7)) != plan(WorldOptions(seed=8))


@pytest.mark.parametrize("nodes", [3, 4, 20])
def test_every_seed_has_what_makes_it_count(nodes: int) -> None:
    for seed in SEEDS:
        faults = plan(WorldOptions(seed=seed, nodes=nodes))
        assert [fault.number for fault in faults] == list(range(1, len(faults) + 1))
        assert set(ALWAYS) <= {fault.kind for fault in faults}
        for fault in faults:
            assert all(0 <= host < nodes for host in fault.hosts)


def test_each_item_happens_in_about_half_of_the_seeds() -> None:
    kinds = Counter(kind for seed in SEEDS for kind in {fault.kind for fault in plan(WorldOptions(seed=seed))})
    for kind in set(MENU) - set(ALWAYS):
        assert 70 <= kinds[kind] <= 130, kind


def test_taking_faults_away_leaves_the_others_as_they_were() -> None:
    for seed in SEEDS[:40]:
        whole = plan(WorldOptions(seed=seed))
        drop = tuple(fault.number for fault in whole[::3])
        assert plan(WorldOptions(seed=seed, drop=drop)) == tuple(f for f in whole if f.number not in drop)


def test_what_is_asked_for_happens_as_it_does_among_others() -> None:
    """An item draws from its own stream: with whom it shares the menu changes its number and nothing else."""
    for seed in SEEDS[:40]:
        among = [replace(fault, number=0) for fault in plan(WorldOptions(seed=seed, faults=tuple(MENU)))]
        alone = [replace(fault, number=0) for fault in plan(WorldOptions(seed=seed, faults=("slander",)))]
        assert alone == [fault for fault in among if fault.kind in ("slander", *ALWAYS)]


def test_a_window_ends_with_its_storm() -> None:
    returning = ("crash", "blackout", "pause", "bit_flip", "stale_restore")  # they last as long as the machine is away
    for seed in SEEDS:
        options = WorldOptions(seed=seed)
        for fault in plan(options):
            assert 0 <= fault.at_s < options.storm_s
            if fault.kind not in returning:
                assert fault.at_s + fault.for_s <= options.storm_s + 1e-9, fault


@pytest.mark.parametrize("nodes", [3, 4, 7, 20])
def test_no_more_disks_are_damaged_than_may_be_lost(nodes: int) -> None:
    for seed in SEEDS:
        options = WorldOptions(seed=seed, nodes=nodes, faults=("bit_flip", "stale_restore"))
        parts = cast(options)
        lost = {host for fault in plan(options) if fault.kind not in ALWAYS for host in fault.hosts}
        assert lost <= set(parts.fragile) <= set(parts.honest)
        assert len(lost) <= min(3, nodes) - 1
        assert len(parts.hostile) <= (nodes - 1) // 3
        assert 0 not in parts.hostile + parts.fragile


def test_an_unknown_fault_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="earthquake"):
        plan(WorldOptions(faults=("earthquake",)))
    with pytest.raises(UsageError):
        WorldOptions(nodes=2)


def test_options_say_what_differs_from_a_plain_world() -> None:
    assert WorldOptions(seed=4, nodes=5).changed() == {}
    assert WorldOptions(drop=(3,), loss_max=0.0).changed() == {"drop": (3,), "loss_max": 0.0}
