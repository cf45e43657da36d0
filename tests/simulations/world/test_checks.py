"""Each check passes what is right and tells what is wrong: a checker that never fails proves nothing."""

from __future__ import annotations

from dataclasses import replace

from simulations.world import checks
from simulations.world.checks import Ack, Fact, Sight, View

A, B, C, D = (bytes([n]) * 4 for n in range(1, 5))
#: A chain with a fork in it: A ← B, A ← C, (B, C) ← D.
FACTS = {
    fact.id: fact
    for fact in (
        Fact(A, "p1", "genesis", "", ()),
        Fact(B, "p1", "define", "ds", (A,)),
        Fact(C, "p2", "up", "p2", (A,)),
        Fact(D, "p2", "define", "ds2", (B, C)),
    )
}
WHOLE = View("n1", "p1", frozenset(FACTS), (D,), b"state", (("p1", "p2"),), states={"p1": "alive", "p2": "alive"})


def kinds(found: list[checks.Violation]) -> list[str]:
    return [violation.kind for violation in found]


def test_same_events_with_other_answers() -> None:
    other = replace(WHOLE, name="n2", peer_id="p2")
    assert checks.same_events_same_answers([WHOLE, other]) == []
    for wrong in (replace(other, heads=(C, D)), replace(other, state=b"x"), replace(other, owners=(("p2", "p1"),))):
        assert kinds(checks.same_events_same_answers([WHOLE, other, wrong])) == ["disagreement"]
    fewer = replace(other, events=frozenset({A}), state=b"x", heads=(A,), owners=())
    assert checks.same_events_same_answers([WHOLE, fewer]) == []


def test_heads_are_computed_anew() -> None:
    assert checks.heads_are_heads(WHOLE, FACTS) == []
    for wrong in ((C, D), (), (B,)):
        assert kinds(checks.heads_are_heads(replace(WHOLE, heads=wrong), FACTS)) == ["heads"]
    assert checks.heads_are_heads(replace(WHOLE, events=frozenset({A, B, C}), heads=(B, C)), FACTS) == []


def test_the_fold_in_another_order() -> None:
    assert checks.order_does_not_show(WHOLE, b"state") == []
    assert kinds(checks.order_does_not_show(WHOLE, b"another")) == ["order"]


def test_an_acknowledgement_on_too_few_disks() -> None:
    assert checks.enough_disks(Ack(1, "n1", (A,), promised=3, found=3)) == []
    assert kinds(checks.enough_disks(Ack(1, "n1", (A,), promised=3, found=2))) == ["not durable"]


def test_a_shard_on_too_few_disks() -> None:
    assert checks.shard_on_disks(1, "bafk", found=2, members=9) == []
    assert checks.shard_on_disks(1, "bafk", found=1, members=1) == []
    assert kinds(checks.shard_on_disks(1, "bafk", found=1, members=9)) == ["shard not durable"]


def test_owners_follow_from_the_members() -> None:
    members = (("p1", 1000), ("p2", 1000))
    one = Sight("n1", members, {A: (("p1",),), B: (("p2",),)})
    assert checks.owners_follow([one, replace(one, name="n2", owners={B: (("p2",),), C: (("p1",),)})]) == []
    assert kinds(checks.owners_follow([one, replace(one, name="n2", owners={B: (("p1",),)})])) == ["owners"]
    assert checks.owners_follow([one, Sight("n2", members[:1], {B: (("p1",),)})]) == []


def test_nobody_in_reach_is_taken_for_dead() -> None:
    assert checks.burial_has_a_reason("n1", "n2", in_reach_s=10.0, patience_s=10.0) == []
    assert kinds(checks.burial_has_a_reason("n1", "n2", in_reach_s=10.5, patience_s=10.0)) == ["buried"]


def test_an_end_is_witnessed_when_it_is_recorded() -> None:
    assert checks.end_was_witnessed("n1", "p2", witnesses=2, members=3) == []
    assert checks.end_was_witnessed("n1", "p2", witnesses=1, members=2) == []
    assert kinds(checks.end_was_witnessed("n1", "p2", witnesses=1, members=3)) == ["unwitnessed"]


def test_a_minority_records_nobody_s_end() -> None:
    assert checks.minority_is_silent("n1", seen=3, members=5, downs=2) == []
    assert checks.minority_is_silent("n1", seen=1, members=5, downs=0) == []
    assert checks.minority_is_silent("n1", seen=1, members=2, downs=1) == []
    for seen, members in ((2, 4), (2, 5), (1, 3)):
        assert kinds(checks.minority_is_silent("n1", seen, members, downs=1)) == ["minority"]


def test_what_was_acknowledged_is_everywhere() -> None:
    poor = replace(WHOLE, name="n2", events=frozenset({A, B}))
    assert checks.nothing_lost([Ack(1, "n1", (B,), 3, 3)], [WHOLE, poor]) == []
    (lost,) = checks.nothing_lost([Ack(1, "n1", (B,), 3, 3), Ack(9, "n1", (B, D), 3, 3)], [WHOLE, poor])
    assert (lost.kind, "write 9" in lost.text, "n2" in lost.text) == ("lost", True, True)


def test_one_set_everywhere() -> None:
    assert checks.one_set([WHOLE, replace(WHOLE, name="n2")]) == []
    (found,) = checks.one_set([WHOLE, replace(WHOLE, name="n2", events=frozenset({A, B}))])
    assert "n2 (2)" in found.text
    # Neither has all of it, and both are named.
    halves = [replace(WHOLE, name="n1", events=frozenset({A, B})), replace(WHOLE, name="n2", events=frozenset({A, C}))]
    (found,) = checks.one_set(halves)
    assert "n1 (1), n2 (1)" in found.text


def test_who_runs_is_seen_and_who_is_gone_is_not() -> None:
    alive, gone = frozenset({"p1", "p2"}), frozenset({"p3"})
    assert checks.sights_agree([WHOLE], alive, gone) == []
    for wrong in ({"p2": "suspect"}, {"p2": "dead"}, {}, {"p2": "alive", "p3": "alive"}):
        assert kinds(checks.sights_agree([replace(WHOLE, states=wrong)], alive, gone)) == ["sights"]
    assert kinds(checks.sights_agree([replace(WHOLE, down=frozenset({"p2"}))], alive, gone)) == ["sights"]
    assert checks.sights_agree([replace(WHOLE, down=frozenset({"p3"}))], alive, gone) == []


def test_a_down_needs_two_witnesses_of_one_up() -> None:
    def down(number: int, author: str, ends: bytes) -> Fact:
        return Fact(bytes([number]) * 4, author, "down", "p2", (D,), ends)

    def judged(*downs: Fact, members: int = 5) -> list[str]:
        facts = FACTS | {fact.id: fact for fact in downs}
        view = replace(WHOLE, events=frozenset(facts), down=frozenset({"p2"}))
        return kinds(checks.downs_are_witnessed(view, facts, members))

    assert judged(down(5, "p1", C), down(6, "p3", C)) == []
    assert judged(down(5, "p1", C)) == ["unwitnessed"]
    assert judged(down(5, "p1", C), members=2) == []
    assert judged(down(5, "p1", C), down(6, "p1", C)) == ["unwitnessed"]
    assert judged(down(5, "p1", C), down(6, "p3", B)) == ["unwitnessed"]
    assert judged(down(5, "p1", C), down(6, "p2", C)) == ["unwitnessed"]


def test_two_tongues_are_exposed_and_honest_ones_are_not() -> None:
    proven, liar = replace(WHOLE, exposed=frozenset({"p9"})), frozenset({"p9"})
    assert checks.exposed([proven], liar, liar) == []
    assert kinds(checks.exposed([WHOLE], liar, liar)) == ["unexposed"]
    # Whether the second tongue was heard anywhere is not always known: proof against a liar is never wrong.
    assert checks.exposed([proven, WHOLE], frozenset(), liar) == []
    assert kinds(checks.exposed([proven], frozenset(), frozenset())) == ["honest fork"]


def test_loose_ends() -> None:
    assert checks.few_heads(WHOLE, 1) == []
    assert kinds(checks.few_heads(replace(WHOLE, heads=(C, D)), 1)) == ["unmerged"]


def test_bounds() -> None:
    assert checks.within_bounds("n1", {"waiting": (10, 10)}) == []
    (found,) = checks.within_bounds("n1", {"waiting": (11, 10), "outbox": (1, 2)})
    assert "waiting of n1 has 11" in found.text


def test_stillness() -> None:
    earlier = replace(WHOLE, events=frozenset({A, B, C}))
    assert checks.still([WHOLE], [WHOLE], FACTS) == []
    (found,) = checks.still([earlier], [earlier, WHOLE], FACTS)
    assert "define" in found.text
    # One protest a member may have had to wait for its time; a second one is a quarrel.
    ups = {bytes([n]) * 4: Fact(bytes([n]) * 4, "p2", "up", "p2", (D,)) for n in (5, 6)}
    once, twice = (replace(WHOLE, events=WHOLE.events | set(list(ups)[:count])) for count in (1, 2))
    assert checks.still([WHOLE], [once], FACTS | ups) == []
    assert kinds(checks.still([WHOLE], [twice], FACTS | ups)) == ["restless"]


def test_a_quiet_run_does_not_count() -> None:
    assert checks.strong_enough(100, 100, 1, 1) == []
    for quiet in ((99, 100, 1, 1), (100, 100, 0, 1), (100, 100, 1, 0)):
        assert kinds(checks.strong_enough(*quiet)) == ["weak seed"]


def test_a_violation_names_a_few() -> None:
    views = [replace(WHOLE, name=f"n{n}", events=frozenset({A})) for n in range(9)]
    (found,) = checks.one_set([WHOLE, *views])
    assert found.text.endswith("and 4 more")
