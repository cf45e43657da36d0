from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pnode.core.cid import record_cid
from p2pnode.core.definitions import Definitions
from p2pnode.core.event import RANK_HEIGHT_BYTES
from p2pnode.core.records import Definition

RANKS = [height.to_bytes(RANK_HEIGHT_BYTES, "big") + record_cid(bytes([n])) for n, height in enumerate((1, 3, 2, 3, 7))]
SAID = st.builds(Definition, st.sampled_from(["a", "b", "ö"]), st.text(max_size=3), st.binary(max_size=3))
STEPS = st.lists(st.one_of(st.tuples(st.integers(0, 4), SAID), st.integers(0, 4)), max_size=16)


@given(STEPS, st.integers(0, 16))
def test_the_last_that_is_left_speaks_and_its_name_counts_from_the_first_that_is_left(steps, cut):
    definitions, said, gone = Definitions(), {}, set()
    for number, step in enumerate(steps):
        if isinstance(step, int):
            definitions.take_away([RANKS[step][RANK_HEIGHT_BYTES:]])
            gone.add(RANKS[step])
        else:
            definitions.add(RANKS[step[0]], step[1])
            said.setdefault(RANKS[step[0]], step[1])
        if number == cut:
            loaded = Definitions()
            loaded.load(definitions.dump())
            definitions = loaded
        left = {rank: one for rank, one in said.items() if rank not in gone}
        assert bool(definitions) == bool(said)
        assert definitions.stands == bool(left)
        assert sorted(definitions.left()) == sorted(rank[RANK_HEIGHT_BYTES:] for rank in left)
        if said:
            speaking = left or said
            current = speaking[max(speaking)]
            since = min(rank for rank, one in speaking.items() if one.name == current.name)
            assert definitions.current() == (since, current)
