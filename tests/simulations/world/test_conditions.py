"""Faults of the network add up on the links they concern, and leave the others alone."""

from __future__ import annotations

from simulations.world.conditions import calm, conditions
from simulations.world.options import WorldOptions
from simulations.world.plan import Fault

HOSTS = 5
OPTIONS = WorldOptions(nodes=HOSTS)
REST = calm(OPTIONS, HOSTS)


def fault(kind: str, hosts: tuple[int, ...] = (), amount: float = 0.0) -> Fault:
    return Fault(1, kind, 0, 0.0, 1.0, hosts, amount)


def test_links_at_rest_are_the_seed_s() -> None:
    least, most = OPTIONS.latency_s
    assert all(least <= link.latency_s <= most and not link.loss for link in REST.values())
    assert calm(OPTIONS, HOSTS) == REST != calm(WorldOptions(nodes=HOSTS, seed=2), HOSTS)


def test_fair_weather_is_none() -> None:
    now = conditions(REST, HOSTS, [])
    assert now.links == REST
    assert not now.blocked


def test_a_partition_cuts_both_ways_and_one_way_only_one() -> None:
    both = conditions(REST, HOSTS, [fault("partition", (1, 3))]).blocked
    assert {(1, 0), (0, 1), (3, 4), (4, 3)} <= both
    assert not {(1, 3), (3, 1), (0, 2)} & both
    one = conditions(REST, HOSTS, [fault("one_way", (1,))]).blocked
    assert one == {(1, 0), (1, 2), (1, 3), (1, 4)}
    # Two partitions at once are four parts.
    four = conditions(REST, HOSTS, [fault("partition", (0, 1)), fault("partition", (1, 2))]).blocked
    assert {(0, 1), (1, 2), (0, 3)} <= four
    assert not {(3, 4)} & four


def test_losses_add_up() -> None:
    now = conditions(REST, HOSTS, [fault("loss", amount=0.2), fault("loss", (), 0.5), fault("duplication", amount=0.1)])
    assert all(abs(link.loss - 0.6) < 1e-9 and abs(link.duplicate - 0.1) < 1e-9 for link in now.links.values())


def test_a_spike_is_one_host_s() -> None:
    now = conditions(REST, HOSTS, [fault("spike", (2,), 7.0), fault("reorder", amount=0.5)])
    for (source, _), link in now.links.items():
        assert (link.spike > 0, link.spike_s) == ((True, 7.0) if source == 2 else (False, REST[0, 1].spike_s))
        assert link.reorder_s == 0.5
