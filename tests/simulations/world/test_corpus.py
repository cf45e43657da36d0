"""A line of the corpus is a world, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnode.errors import UsageError
from simulations.world.corpus import Case, read_case
from simulations.world.options import WorldOptions
from simulations.world.plan import MENU

worlds = st.builds(
    WorldOptions,
    seed=st.integers(0, 10**9),
    nodes=st.integers(3, 200),
    faults=st.none() | st.lists(st.sampled_from(sorted(MENU)), unique=True).map(tuple),
    drop=st.lists(st.integers(1, 40), unique=True).map(tuple),
    loss_max=st.floats(0, 1),
    latency_s=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)


@given(worlds, st.text())
def test_a_line_reads_back(options: WorldOptions, why: str) -> None:
    line = Case(options, why).as_line()
    assert "\n" not in line
    assert read_case(line) == Case(options, why)


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"seed": 1}', '{"seed": 1, "why": "", "weather": "bad"}'])
def test_what_is_no_line(line: str) -> None:
    with pytest.raises(UsageError):
        read_case(line)
