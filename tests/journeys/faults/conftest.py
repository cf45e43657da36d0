"""A swarm that is hurt: nodes are killed, paused, lied to and damaged, and what they answer is checked from outside.

Nothing here trusts the program under test: content ids are computed anew from the UnixFS, CID and BLAKE3
specifications, files are read from the nodes' homes, and every answer is compared with one DuckDB over the input.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from blake3 import blake3

from p2pnode.api.cli import run
from p2pnode.api.portal import Hosted
from simulations.local import LocalNode, LocalSwarm

#: Seconds for one command; most take half of one.
COMMAND_S = 90
_CHUNK = 1 << 20
_FLOAT_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        [line] = self.out.splitlines()
        return json.loads(line)


def command(node: LocalNode | Path, *arguments: str) -> Done:
    """One `p2pnode` command with `-o json` on that node's home. A traceback is a failure.

    `up` is a process of its own; the others, which only call the node's, are spared the half second of a start.
    """
    home = node if isinstance(node, Path) else node.home
    words = ["--home", str(home), "-o", "json", *arguments]
    if arguments[0] == "up":
        process = subprocess.run(
            [sys.executable, "-m", "p2pnode", *words], capture_output=True, text=True, timeout=COMMAND_S
        )
        done = Done(process.returncode, process.stdout, process.stderr)
    else:
        out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = run(words)
        out.seek(0)
        done = Done(code, out.read(), err.getvalue())
    assert "Traceback" not in done.err + done.out
    return done


def content_id(data: bytes) -> str:
    """The CIDv1 of a file: raw leaves of 1 MiB under at most one DAG-PB node, BLAKE3-256, base32."""
    chunks = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)] or [b""]
    leaves = [b"\x01\x55\x1e\x20" + blake3(chunk).digest() for chunk in chunks]
    root = leaves[0]
    if len(chunks) > 1:
        links = b"".join(
            _field(2, _field(1, leaf) + _field(2, b"") + _number(3, len(chunk)))
            for leaf, chunk in zip(leaves, chunks, strict=True)
        )
        unixfs = _number(1, 2) + _number(3, len(data)) + b"".join(_number(4, len(chunk)) for chunk in chunks)
        root = b"\x01\x70\x1e\x20" + blake3(links + _field(1, unixfs)).digest()
    return "b" + base64.b32encode(root).decode().lower().rstrip("=")


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


def shard_files(node: LocalNode) -> dict[str, Path]:
    """The shards on a node's disk, by the name that each file bears."""
    return {path.stem: path for path in (node.home / "shards").iterdir() if path.suffix in (".parquet", ".arrow")}


def holders_on_disk(swarm: LocalSwarm, shard_ids: Iterable[str]) -> dict[str, set[str]]:
    """Who has which shard, by looking; every file must be what its name says."""
    found: dict[str, set[str]] = {shard_id: set() for shard_id in shard_ids}
    for node in swarm.nodes:
        for name, path in shard_files(node).items():
            if name in found:
                assert content_id(path.read_bytes()) == name, f"{path} is not what it is called"
                found[name].add(node.node_id)
    return found


class Oracle:
    """One DuckDB over the input."""

    def __init__(self, tables: Mapping[str, pa.Table]) -> None:
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'")
        for name, table in tables.items():
            self._connection.register(name, table)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql).fetchall()

    def agrees(self, sql: str, answer: pa.Table, *, ordered: bool = False) -> bool:
        """Whether `answer` has the rows of `sql`; floats up to the order in which they were added."""
        wanted, got = self.rows(sql), [tuple(row.values()) for row in answer.to_pylist()]
        if not ordered:
            wanted, got = sorted(wanted, key=_sort_key), sorted(got, key=_sort_key)
        return len(wanted) == len(got) and all(
            len(a) == len(b) and all(map(_same, a, b)) for a, b in zip(wanted, got, strict=True)
        )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (a != a and b != b) or isclose(a, b, rel_tol=_FLOAT_TOLERANCE, abs_tol=_FLOAT_TOLERANCE)
    return a == b


def _sort_key(row: tuple[Any, ...]) -> str:
    return "|".join(f"{value + 0.0:.5g}" if isinstance(value, float) else repr(value) for value in row)


@pytest.fixture(scope="session", name="command")
def _command() -> Callable[..., Done]:
    return command


@pytest.fixture(scope="session", name="holders_on_disk")
def _holders_on_disk() -> Callable[[LocalSwarm, Iterable[str]], dict[str, set[str]]]:
    return holders_on_disk


@pytest.fixture(scope="session", name="shard_files")
def _shard_files() -> Callable[[LocalNode], dict[str, Path]]:
    return shard_files


@pytest.fixture
def oracle() -> type[Oracle]:
    return Oracle


@pytest.fixture(scope="session")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSwarm]:
    """A coordinator and five workers. A test may kill and pause them and leaves all of them up: take `hurt`."""
    base_dir = tmp_path_factory.mktemp("six")
    hosted = Hosted(lambda: LocalSwarm(coordinators=1, workers=5, clients=0, base_dir=base_dir))
    try:
        yield hosted.started.result()
    finally:
        hosted.stop().result()


@pytest.fixture
async def hurt(six: LocalSwarm) -> AsyncIterator[LocalSwarm]:
    """`six`, whole again after the test, however that ended."""
    yield six
    for node in six.nodes:
        node.resume()
        if not node.is_running:
            await node.start()
    await six.met()
