"""A member gone bad, in a process of its own: joins as any worker does, then floods one victim with every kind of
bad event and frame, as fast as it is let. `hostile_member.py HOME BOOTSTRAP VICTIM` begins at a line on its stdin,
ends with stdin, and prints a JSON line for each first: joined, told to wait, shut out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import trio

from p2pnode.api.logs import keep_off_stdout
from p2pnode.core import records
from p2pnode.core.cid import record_cid
from p2pnode.core.event import Position, compose, mint_session
from p2pnode.core.model import NodeRole
from p2pnode.core.settings import Settings
from p2pnode.env.net import StreamBroken
from p2pnode.errors import Busy, P2PNodeError, PeerLost
from p2pnode.node import Node, open_node
from protocols.metadata import METADATA, Push

#: Asked at once; more than an honest member ever does.
AT_ONCE = 8
FRAMES = (b"\xff" * 64, b"\x05hello", b"\x0f\x93\xa4push\x00\x81\xa5sizes\x05", bytes(3000))

said: set[str] = set()


def say(what: str) -> None:
    if what not in said:
        said.add(what)
        print(json.dumps({"what": what, "at": round(trio.current_time(), 2)}), flush=True)


def bad_events(node: Node) -> Iterator[bytes]:
    clock, me = node._metadata.clock, node._identity
    session = mint_session(bytes(16))
    place = clock.next_position(me.peer_id, session)
    lost = record_cid(b"lost")

    def event(position: Position, kind: str = "note", namespace: bytes = clock.genesis) -> bytes:
        return compose(
            namespace=namespace,
            author=me.peer_id,
            session=session,
            position=position,
            time=0,
            kind=kind,
            object_id="x",
            body={},
            sign=me.sign,
        ).wire

    good = event(place)
    return cycle(
        (
            b"\xff" * 300,
            good[:-64] + bytes(64),
            good[:-64] + bytes(90_000),
            event(replace(place, height=place.height + 9)),
            event(replace(place, sequence=3)),
            event(place, kind=records.DEFINE),
            event(place, namespace=lost),
            event(Position(1, lost, (lost,), 9)),
            good[:-70],
        )
    )


async def push(node: Node, victim: str, wires: Iterator[bytes]) -> None:
    while True:
        wire = next(wires)
        try:
            await node._net.ask(victim, METADATA, Push(sizes=[len(wire)]), wire, timeout_s=5)
        except Busy:
            say("told to wait")
        except PeerLost:
            if "told to wait" in said:
                say("shut out")
        except P2PNodeError:
            pass  # whatever else it is told
        await trio.sleep(0.002)


async def babble(node: Node, victim: str) -> None:
    for frame in cycle(FRAMES):
        try:
            stream = await node._transport.open_stream(victim, METADATA.protocol_id)
            await stream.write(frame)
            await stream.reset()
        except StreamBroken:
            pass  # thrown out
        await trio.sleep(0.02)


async def main(home: str, bootstrap: str, victim: str) -> None:
    settings = Settings(home=Path(home), node_id="mallory", role=NodeRole.WORKER, bootstrap=(bootstrap,))
    async with open_node(settings) as node:
        say("joined")
        await trio.to_thread.run_sync(sys.stdin.readline)
        say("begins")
        wires = bad_events(node)
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(push, node, victim, wires)
            nursery.start_soon(babble, node, victim)
            await trio.to_thread.run_sync(sys.stdin.readline)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    keep_off_stdout()
    trio.run(main, *sys.argv[1:])
