"""`p2pnode demo`: the main job on real data, before your eyes, with a worker killed in the middle.

A coordinator and workers start as processes; this process joins them as a client, publishes the New York
flights in three replicas, asks three questions, kills a worker, and asks again. Every answer is compared with
what one DuckDB says alone. This file tells the story; `flights` has the data, `demo_screen` the looks.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import trio

from p2pnode import DistributedDatasetManager
from p2pnode.api.results import QueryResult, Shard
from simulations.demo_screen import Bars, Screen, size_text
from simulations.flights import QUESTIONS, Question, answer_alone, load_tables, same_rows
from simulations.local import LocalNode, LocalSwarm

#: Rows a shard: fourteen shards of flights, so that every worker holds about ten.
SHARD_ROWS = 25_000
REPLICAS = 3
#: How long the client may take to see that the worker is dead, in seconds, and how often it looks.
SEEN_DEAD_MAX_S = 15.0
SEEN_DEAD_POLL_S = 0.2
#: The share of scanned bytes that the group-by may move: a swarm that moves more has gathered, not
#: aggregated.
MOVED_MAX = 0.02


@dataclass(slots=True)
class Story:
    """What was seen so far; `document` is what `-o json` prints."""

    screen: Screen
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    expected: Sequence[pa.Table] = ()
    shards: dict[str, list[Shard]] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    killed: dict[str, Any] = field(default_factory=dict)


async def run_demo(
    workers: int = 4, keep: bool = False, output: Literal["table", "json"] = "table", *, screen: Screen | None = None
) -> dict[str, Any]:
    """Run the demo and return its summary; `summary["ok"]` says whether every answer was right.

    `keep` leaves the swarm up until Ctrl-C; `screen` shows it instead of the terminal. Raises MissingExtra without
    the data, P2PNodeError if the swarm fails.
    """
    began = trio.current_time()
    screen = screen or Screen(quiet=output == "json")
    screen.opening()
    story = Story(screen)
    screen.chapter("A swarm of processes")
    async with AsyncExitStack() as stack:
        with screen.working(f"starting a coordinator and {workers} workers; reading a year of flights meanwhile"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_read, story)
                swarm = await stack.enter_async_context(LocalSwarm(coordinators=1, workers=workers, clients=0))
            client = await stack.enter_async_context(swarm.client())
        story.seconds["start"] = trio.current_time() - began
        _show_nodes(story, swarm.nodes, client)
        await _publish(story, client, [node.node_id for node in swarm.nodes if node.role == "worker"])
        await _ask_all(story, client)
        await _kill_and_ask(story, client, swarm.nodes)
        story.seconds["total"] = trio.current_time() - began
        document = _document(story, swarm.nodes)
        _close(story, document)
        if keep:
            screen.say("The swarm stays up until Ctrl-C. Join it:")
            screen.say(f"[bold]p2pnode up --bootstrap {swarm.nodes[0].addresses[0]}[/]")
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                await anext(aiter(signals))
    return document


async def _read(story: Story) -> None:
    """Get the data, and what one DuckDB says about it."""
    story.tables = await trio.to_thread.run_sync(load_tables)
    story.expected = await trio.to_thread.run_sync(answer_alone, story.tables, QUESTIONS)


def _show_nodes(story: Story, nodes: Sequence[LocalNode], client: DistributedDatasetManager) -> None:
    rows = [(node.node_id, node.role, node.pid, node.addresses[0]) for node in nodes]
    story.screen.nodes([*rows, (client.node_id, "client (this process)", None, "")])
    story.screen.say(f"[dim]up and joined in {story.seconds['start']:.1f} s, over libp2p with noise[/]")


async def _publish(story: Story, client: DistributedDatasetManager, workers: Sequence[str]) -> None:
    story.screen.chapter(f"Publish: shards, each on {REPLICAS} disks")
    began = trio.current_time()
    with story.screen.bar() as bars:
        for name, table in story.tables.items():
            bars.add(name, table.num_rows)
        for name, table in story.tables.items():
            bars.begin(name)
            story.shards[name] = await client.shard_dataset(
                name,
                table,
                shard_size=SHARD_ROWS,
                replication_factor=REPLICAS,
                progress=lambda step, name=name: _move(bars, name, step),
            )
            size = sum(shard.bytes for shard in story.shards[name])
            bars.move(name, table.num_rows, f"{_shards(len(story.shards[name]))}, {size_text(size)}")
    story.seconds["publish"] = trio.current_time() - began
    _show_shards(story, workers)


def _move(bars: Bars, name: str, step: Any) -> None:
    bars.move(name, step.rows, f"{_shards(step.shards)}, {size_text(step.bytes)} pushed")


def _shards(count: int) -> str:
    return "1 shard" if count == 1 else f"{count} shards"


def _show_shards(story: Story, workers: Sequence[str], gone: str = "") -> None:
    rows = [
        (name, shard.shard_id, shard.rows, shard.bytes, shard.holders)
        for name, shards in story.shards.items()
        for shard in shards
    ]
    story.screen.shards(rows, workers, gone)


async def _ask_all(story: Story, client: DistributedDatasetManager) -> None:
    story.screen.chapter("Ask: SQL goes to the shards, only partial results travel")
    for question, expected in zip(QUESTIONS, story.expected, strict=True):
        record, result = await _ask(client, question, expected)
        story.asked.append({"kind": question.kind, "title": question.title, "sql": question.sql, "before": record})
        story.screen.answer(question.title, question.sql, result.to_arrow(), _footnote(record), equal=record["equal"])


async def _ask(
    client: DistributedDatasetManager, question: Question, expected: pa.Table
) -> tuple[dict[str, Any], QueryResult]:
    began = trio.current_time()
    result = await client.query(query=question.sql)
    elapsed_s = trio.current_time() - began
    scanned, moved = result.stats["bytes_scanned"], result.stats["bytes_moved"]
    record = {
        "equal": same_rows(result.to_arrow(), expected),
        "ms": round(elapsed_s * 1000, 1),
        "rows": len(result),
        "fragments": len(result.stats["fragments"]),
        "fragment_rows": sum(fragment["rows"] for fragment in result.stats["fragments"]),
        "nodes": sorted({fragment["node_id"] for fragment in result.stats["fragments"]}),
        "bytes_scanned": scanned,
        "bytes_moved": moved,
        "moved_share": round(moved / scanned, 6) if scanned else None,
        "coverage": result.coverage,
    }
    return record, result


def _footnote(record: Mapping[str, Any]) -> str:
    share = f" ({record['moved_share']:.2%})" if record["moved_share"] is not None else ""
    partial = "" if record["coverage"] == 1.0 else f" · covers {record['coverage']:.0%}"
    return (
        f"{record['ms']:.0f} ms · {len(record['nodes'])} nodes · moved {size_text(record['bytes_moved'])}"
        f" of {size_text(record['bytes_scanned'])}{share}{partial}"
    )


async def _kill_and_ask(story: Story, client: DistributedDatasetManager, nodes: Sequence[LocalNode]) -> None:
    workers = [node for node in nodes if node.role == "worker"]
    held = {node.node_id: _held(story, node.node_id) for node in workers}
    victim = max(workers, key=lambda node: held[node.node_id])
    pid = victim.pid
    assert pid is not None
    story.screen.chapter("Kill a worker")
    await victim.kill()
    began = trio.current_time()
    story.screen.killed(
        victim.node_id, pid, f"it held {held[victim.node_id]} shards; nobody is told; the same questions again, at once"
    )
    for question, expected, asked in zip(QUESTIONS, story.expected, story.asked, strict=True):
        asked["after"], _ = await _ask(client, question, expected)
    story.screen.again([(asked["title"], asked["after"]["equal"], _footnote(asked["after"])) for asked in story.asked])
    with story.screen.working(f"waiting until the client sees that {victim.node_id} is dead"):
        seen = await _until_dead(client, victim.node_id)
    story.killed = {
        "node_id": victim.node_id,
        "pid": pid,
        "shards": held[victim.node_id],
        "seen_dead_s": round(trio.current_time() - began, 2) if seen else None,
    }
    _show_shards(story, [node.node_id for node in workers], victim.node_id)


def _held(story: Story, node_id: str) -> int:
    return sum(node_id in shard.holders for shards in story.shards.values() for shard in shards)


async def _until_dead(client: DistributedDatasetManager, node_id: str) -> bool:
    with trio.move_on_after(SEEN_DEAD_MAX_S):
        while True:
            health = await client.get_all_nodes_health()
            if health[node_id]["status"] == "dead":
                return True
            await trio.sleep(SEEN_DEAD_POLL_S)
    return False


def _document(story: Story, nodes: Sequence[LocalNode]) -> dict[str, Any]:
    every = [record for asked in story.asked for record in (asked["before"], asked["after"])]
    [group_by] = [asked for asked in story.asked if asked["kind"] == "group-by"]
    aggregated = group_by["before"]["moved_share"] is not None and group_by["before"]["moved_share"] <= MOVED_MAX
    complete = all(record["equal"] and record["coverage"] == 1.0 for record in every)
    return {
        "ok": complete and aggregated,
        "nodes": [{"node_id": node.node_id, "role": node.role, "pid": node.pid} for node in nodes],
        "rows": {name: table.num_rows for name, table in story.tables.items()},
        "replicas": REPLICAS,
        "shards": [
            {
                "dataset": name,
                "shard_id": shard.shard_id,
                "cid": shard.cid,
                "rows": shard.rows,
                "bytes": shard.bytes,
                "holders": list(shard.holders),
            }
            for name, shards in story.shards.items()
            for shard in shards
        ],
        "questions": story.asked,
        "killed": story.killed,
        "seconds": {name: round(value, 2) for name, value in story.seconds.items()},
    }


def _close(story: Story, document: Mapping[str, Any]) -> None:
    before = [asked["before"] for asked in story.asked]
    after = [asked["after"] for asked in story.asked]
    every = [*before, *after]
    shards = document["shards"]
    size = sum(shard["bytes"] for shard in shards)
    copies = sum(len(shard["holders"]) for shard in shards)
    stored = sum(shard["bytes"] * len(shard["holders"]) for shard in shards)
    scanned, moved = sum(r["bytes_scanned"] for r in every), sum(r["bytes_moved"] for r in every)
    seen = document["killed"]["seen_dead_s"]
    facts = [
        ("data", f"{sum(document['rows'].values()):,} rows in {len(shards)} shards, {size_text(size)}"),
        ("on disk", f"{copies} verified replicas, {size_text(stored)}, published in {story.seconds['publish']:.1f} s"),
        ("answers", f"{sum(record['equal'] for record in every)} of {len(every)} equal to DuckDB alone"),
        ("before the kill", " · ".join(f"{record['ms']:.0f} ms" for record in before)),
        ("after the kill", " · ".join(f"{record['ms']:.0f} ms" for record in after)),
        ("bytes", f"moved {size_text(moved)} of {size_text(scanned)} scanned ({moved / scanned:.2%})"),
        ("group-by", f"moved {story.asked[1]['before']['moved_share']:.2%} of what it scanned"),
        ("coverage", f"{min(record['coverage'] for record in every):.0%}"),
        ("seen dead after", "not seen" if seen is None else f"{seen:.1f} s"),
        ("all of it", f"{story.seconds['total']:.1f} s"),
    ]
    story.screen.closing(facts, ok=document["ok"])
