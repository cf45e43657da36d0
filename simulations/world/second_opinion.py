"""What a node made of its events, judged by a reader that shares nothing with it.

The checks compare nodes with each other, and so see nothing where all of them are wrong alike: an event that should
have been refused everywhere, a fork that is overlooked everywhere. `second_reader` was written from the specification
alone; what it makes of the bytes on a node's disk must be what the node says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simulations.world.checks import Violation
from simulations.world.second_reader import Bad, Event, Fold, Link, Swarm, check_signature, link_of, read_form


def second_opinion(
    name: str, genesis: bytes, wires: Sequence[bytes], blocks: Iterable[bytes], heads: Sequence[bytes], state: bytes
) -> list[Violation]:
    """What is wrong with a node that has these events and blocks and says that these are its heads and its state."""
    events: list[Event] = []
    for wire in wires:
        try:
            events.append(read_form(wire))
            check_signature(events[-1])
        except Bad as error:
            return [Violation("second opinion", f"{name} has an event that is none: {error}")]
    swarm = Swarm(Link(genesis), events, {link_of(block): block for block in blocks})
    outside = [event for event in events if event.id not in swarm.events]
    if outside:
        first = min(outside, key=lambda event: event.order)
        return [Violation("second opinion", f"{name} admitted {len(outside)} events, {_why(swarm, first)}")]
    if [head.cid for head in swarm.heads] != list(heads):
        return [Violation("second opinion", f"{name} has {len(heads)} heads and should have {len(swarm.heads)}")]
    if Fold(swarm).digest != state:
        return [Violation("second opinion", f"{name}'s {len(events)} events amount to another state")]
    return []


def _why(swarm: Swarm, event: Event) -> str:
    """Why the lowest of those outside is there."""
    if not swarm.complete(event):
        return f"a {event.k} among them whose past is not here"
    try:
        swarm.check(event)
    except Bad as error:
        return f"a {event.k} among them that may not be: {error}"
    return f"a {event.k} among them for no reason"
