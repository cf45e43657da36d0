"""The awake clock stands still in sleep; strain and lag stretch patience within bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pnode.core.senses import LAG_UNIT_S, STRAIN_MAX, STRETCH_MAX, Senses


def test_time_asleep_is_taken_off_the_clock() -> None:
    senses = Senses(gap_s=0.75)
    for now in (10.0, 10.5, 11.0):
        senses.wake(now)
    assert (senses.awake, senses.stalls) == (11.0, 0)
    senses.wake(71.0)
    assert (senses.awake, senses.stalls) == (11.75, 1)
    senses.wake(71.5)
    assert (senses.awake, senses.stalls) == (12.25, 1)


def test_strain_and_lag_stretch_patience() -> None:
    senses = Senses(gap_s=1.0)
    assert senses.stretch == 1.0
    senses.strained()
    senses.wake(1.0, lag_s=LAG_UNIT_S)
    assert senses.stretch == 3.0
    senses.wake(1.1)
    assert senses.stretch == 3.0, "no new measurement leaves the last one standing"
    senses.eased()
    senses.wake(1.2, lag_s=0.0)
    senses.eased()
    assert senses.stretch == 1.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50), st.integers(-9, 9))))
def test_the_awake_clock_never_goes_back_nor_ahead_of_time(steps: list[tuple[float, float, int]]) -> None:
    senses, now, awake = Senses(gap_s=0.75), 0.0, 0.0
    for step_s, lag_s, strain in steps:
        now += step_s
        senses.wake(now, lag_s)
        assert awake - 1e-9 <= senses.awake <= min(now, awake + 0.75 + 1e-6) or awake == 0.0
        awake = senses.awake
        for _ in range(abs(strain)):
            senses.strained() if strain > 0 else senses.eased()
        assert 1.0 <= senses.stretch <= min(STRETCH_MAX, 1.0 + STRAIN_MAX + lag_s / LAG_UNIT_S)
