"""The commands that `simulations` adds to `p2pnode`: `demo`, `sim`, `bench`.

They join through the entry-point group `p2pnode.commands`. Nothing is imported before a command runs: the help of
`p2pnode` lists them all and must stay quick.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import typer

from p2pnode.api.commands.session import Session
from p2pnode.errors import UsageError

if TYPE_CHECKING:
    import trio

sim = typer.Typer(help="Many nodes on this machine.", no_args_is_help=True, rich_markup_mode=None)
_local = typer.Typer(help="Real processes over loopback.", no_args_is_help=True, rich_markup_mode=None)
sim.add_typer(_local, name="local")


def demo(
    context: typer.Context,
    workers: Annotated[int, typer.Option(metavar="N", min=3, max=16, help="Workers beside the coordinator.")] = 4,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the swarm up until Ctrl-C.")] = False,
) -> None:
    """See a swarm at work: real data, SQL, a worker killed, SQL again.

    \b
      p2pnode demo
      p2pnode demo --workers 6 --keep
    """
    import trio

    from p2pnode.api import output
    from p2pnode.env.together import one_failure
    from simulations.demo import run_demo

    session = Session.of(context)
    with one_failure():
        summary = trio.run(run_demo, workers, keep, "json" if session.json else "table")
    if session.json:
        output.document(summary)
    if not summary["ok"]:
        raise typer.Exit(1)


def bench(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME…]",
            help="connect, request, transfer, publish, count, idle, clock (the merkle clock, some minutes); by default "
            "all. clock_million (opening a log of a million events) only by name.",
        ),
    ] = None,
) -> None:
    """Measure, each figure as a ratio to a baseline in the same run.

    \b
      p2pnode bench
      p2pnode bench count idle
    """
    from p2pnode.api import output
    from simulations.bench.run import run_bench

    session = Session.of(context)
    figures = run_bench(names or [], output="json" if session.json else "table")
    if session.json:
        output.document(figures)


@_local.command("up")
def local_up(
    context: typer.Context,
    count: Annotated[int | None, typer.Option("-n", metavar="N", min=1, max=64, help="Nodes altogether.")] = None,
    roles: Annotated[
        str | None, typer.Option(metavar="ROLE=K,…", help="How many of each role; by default one coordinator.")
    ] = None,
) -> None:
    """Start a swarm and keep it up until SIGINT or SIGTERM.

    \b
      p2pnode sim local up -n 5
      p2pnode sim local up --roles coordinator=1,worker=3,client=1
    """
    import trio

    from p2pnode.env.together import one_failure

    counts = counted(count, roles)
    with one_failure():
        trio.run(_keep_up, counts, Session.of(context).json)


@sim.command("world")
def world(
    context: typer.Context,
    seeds: Annotated[str, typer.Option(metavar="A..B", help="Seeds to run, both inclusive, or one.")] = "1..40",
    nodes: Annotated[int, typer.Option(metavar="N", min=3, max=200, help="Members of each swarm.")] = 20,
    faults: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="These and no others; none: only what always happens.")
    ] = None,
    drop: Annotated[str, typer.Option(metavar="NUMBER,…", help="Leave out these faults of one seed, by number.")] = "",
    shrink: Annotated[bool, typer.Option("--shrink", help="Find the fewest faults with which the seed fails.")] = False,
    libp2p: Annotated[
        bool, typer.Option("--libp2p", help="Let nodes run their real network stack over simulated sockets: slower.")
    ] = False,
) -> None:
    """Whole swarms in one process and virtual time, with everything going wrong.

    \b
      p2pnode sim world --nodes 20 --seeds 1..40
      p2pnode sim world --seeds 17 --drop 3,7
      p2pnode sim world --seeds 17 --shrink

    Prints a line of JSON for each seed, and with -v how a single one ended, step by step; exits 1 if a promise was
    broken. The same seed does the same every time.
    """
    from simulations.world import screen
    from simulations.world.options import WorldOptions

    menu = None if faults is None else tuple(name for name in listed(faults) if name != "none")
    left_out = tuple(sorted({number(word) for word in listed(drop)}))
    worlds = [
        WorldOptions(seed=seed, nodes=nodes, faults=menu, drop=left_out, libp2p=libp2p) for seed in screen.seeds(seeds)
    ]
    verbose = Session.of(context).verbose
    if shrink and len(worlds) > 1:
        raise UsageError("--shrink takes one seed", advice="For example --seeds 17.")
    if not (screen.show_smallest(worlds[0]) if shrink else screen.show_worlds(worlds, verbose=verbose)):
        raise typer.Exit(1)


#: More no number here has, and no machine runs that many seeds.
NUMBER_DIGITS_MAX = 18


def listed(text: str) -> list[str]:
    """The words between the commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def number(word: str) -> int:
    """Raises UsageError for what is none."""
    if not word.isdecimal() or len(word) > NUMBER_DIGITS_MAX:
        raise UsageError(f"--drop: {word[:NUMBER_DIGITS_MAX]!r} is no number", advice="For example --drop 3,7.")
    return int(word)


def counted(count: int | None, roles: str | None) -> dict[str, int]:
    """Nodes of each role: as `roles` says, or one coordinator and workers.

    Raises `UsageError` for a role or number that is none, or when the two options contradict each other.
    """
    from p2pnode.core.model import NodeRole

    if roles is None:
        count = count or 4
        return {"hybrid": 1} if count == 1 else {"coordinator": 1, "worker": count - 1}
    counts: dict[str, int] = {}
    for part in roles.split(","):
        role, _, number = part.strip().partition("=")
        if role not in set(NodeRole) or not (number or "1").isdigit():
            raise UsageError(f"--roles {roles}: {part!r} is not ROLE=K", advice="For example coordinator=1,worker=3.")
        counts[role] = counts.get(role, 0) + int(number or "1")
    if count is not None and count != sum(counts.values()):
        raise UsageError(f"-n {count} and --roles {roles} disagree", advice="Leave one of them out.")
    return counts


async def _keep_up(counts: dict[str, int], as_json: bool) -> None:
    import trio

    from p2pnode.api import output
    from simulations.local import LocalSwarm

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_told, signals, nursery.cancel_scope)
            async with LocalSwarm(
                coordinators=counts.get("coordinator", 0),
                workers=counts.get("worker", 0),
                hybrids=counts.get("hybrid", 0),
                clients=counts.get("client", 0),
            ) as swarm:
                for node in swarm.nodes:
                    found = {
                        "event": "ready",
                        "node_id": node.node_id,
                        "peer_id": node.peer_id,
                        "role": str(node.role),
                        "addresses": node.addresses,
                        "api": node.api,
                        "home": str(node.home),
                    }
                    if as_json:
                        output.document(found)
                    else:
                        output.text(f"{node.node_id:<16} p2pnode --home {node.home} …   {node.addresses[0]}")
                if not as_json:
                    output.text("Ctrl-C stops them all.")
                await trio.sleep_forever()


async def _cancel_when_told(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
