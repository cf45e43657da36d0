"""What was kept and loaded goes on as if it had never stopped; what is not whole, or not ours, is not taken."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnode.core.checkpoint import MAGIC, BadCheckpoint, Checkpoint, decode, encode
from p2pnode.core.clock import MerkleClock
from p2pnode.core.event_index import EventIndex
from tests.p2pnode.core.test_forks import ACTS, play

KEPT = Checkpoint(
    b"genesis", 7, 7, bytes(32), {"index": {"height": b"\0" * 64}}, {"members": [1, "two", b"three", None]}
)


def whole_file(checkpoint, maker):
    return b"".join(encode(checkpoint, maker))


def whole(clock):
    return (
        [event.id for event in clock.events()],
        [clock.counts(event) for event in clock.events()],
        clock.fingerprint,
        clock.heads(),
        clock.height,
        clock.forks(),
        {author: clock.leaves(author) for author in clock.authors()},
        {author: clock.next_position(author, b"\x80" * 16) for author in clock.authors()},
    )


@settings(max_examples=80, deadline=None)
@given(acts=ACTS, order=st.randoms(use_true_random=False), data=st.data())
def test_a_clock_kept_halfway_and_loaded_becomes_the_same_clock(author, acts, order, data):
    court = play(author, acts)
    events = {event.id: event for event in court.clock.events()}
    arrival = list(events.values())
    order.shuffle(arrival)
    half = data.draw(st.integers(0, len(arrival)))
    first = MerkleClock(court.clock.genesis)
    for event in arrival[:half]:
        first.add(event)
    dump = msgspec.msgpack.decode(msgspec.msgpack.encode(first.dump()))
    second = MerkleClock.load(court.clock.genesis, dump, events.__getitem__)
    assert whole(second) == whole(first)
    # What waited is not kept: it comes again, as everything that was not on disk does.
    for event in arrival:
        second.add(event)
    assert whole(second) == whole(court.clock)


def test_a_checkpoint_comes_back_as_it_was():
    assert decode(whole_file(KEPT, "p2pnode 1"), "p2pnode 1") == KEPT


def test_what_is_long_lies_in_short_pieces(monkeypatch):
    monkeypatch.setattr("p2pnode.core.checkpoint._LONG_BYTES", 50)
    monkeypatch.setattr("p2pnode.core.checkpoint._LONG_ITEMS", 8)
    rows = [[n, [bytes([n]) * 40, {"long": bytes(n)}], list(range(n))] for n in range(100)]
    kept = replace(KEPT, clock={"rows": rows, "runs": [bytes(50)] * 20}, catalog={"none": [], "text": "x" * 99})
    pieces = encode(kept, "p2pnode 1")
    assert max(map(len, pieces)) < 1000 < sum(map(len, pieces)) / 10
    assert decode(b"".join(pieces), "p2pnode 1") == kept


@pytest.mark.parametrize("position", ["magic", "digest", "body", "end"])
def test_every_changed_byte_is_found(position):
    data = bytearray(whole_file(KEPT, "p2pnode 1"))
    at = {"magic": 3, "digest": len(MAGIC) + 5, "body": len(MAGIC) + 40, "end": len(data) - 1}[position]
    data[at] ^= 1
    with pytest.raises(BadCheckpoint):
        decode(bytes(data), "p2pnode 1")


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, 400))
def test_a_torn_one_is_found(length):
    data = whole_file(KEPT, "p2pnode 1")
    if length < len(data):
        with pytest.raises(BadCheckpoint):
            decode(data[:length], "p2pnode 1")


def test_another_versions_and_another_machines_are_left_aside(monkeypatch):
    data = whole_file(KEPT, "p2pnode 2")
    with pytest.raises(BadCheckpoint, match="p2pnode 2 made it"):
        decode(data, "p2pnode 1")
    monkeypatch.setattr("sys.byteorder", "other")
    with pytest.raises(BadCheckpoint, match="byte order"):
        decode(data, "p2pnode 2")


def test_an_index_finds_all_it_has_and_nothing_else():
    index = EventIndex()
    ids = [EventIndex().id(0) + bytes(28) + n.to_bytes(4, "big") for n in range(3000)]
    for n, event_id in enumerate(ids):
        assert index.row(event_id) == -1
        row = index.add(event_id, height=n, session=0, sequence=n, previous=n - 1, standing=0, past=range(n % 3))
        assert row == n
    index.sessions.append(("author", b"session"))
    again = EventIndex.load(index.dump())
    for found in (index, again):
        assert [found.row(event_id) for event_id in ids] == list(range(3000))
        assert [found.id(row) for row in range(3000)] == ids
        assert [list(found.past(row)) for row in (0, 1, 2, 2999)] == [[], [0], [0, 1], [0, 1]]
        assert found.row(b"\x02" + ids[5][1:]) == -1
        assert found.row(ids[5] + b"\0") == -1
    assert again.author(7) == "author"
