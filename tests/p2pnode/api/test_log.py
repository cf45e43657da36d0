"""`log` and `log verify` over a real log: of a node that runs, and of one that does not."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from p2pnode.api.cli import run
from p2pnode.api.commands import log
from p2pnode.api.home import ApiAccess, write_api_file
from p2pnode.api.portal import Hosted
from p2pnode.api.server import serve_api
from p2pnode.core import records
from p2pnode.core.settings import Settings
from p2pnode.env import Env
from p2pnode.services.journal import Journal

KINDS = ["genesis", "up", "define", "up", "version", "version", "define", "merge", "delete"]


class Shell:
    """Runs commands on one home and keeps what they printed."""

    def __init__(self, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.home, self._capfd = home, capfd

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._capfd.readouterr()
        code = run(["--home", str(self.home), *arguments])
        out, err = self._capfd.readouterr()
        assert "Traceback" not in err + out
        return code, out, err

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        code, out, err = self(*arguments, "-o", "json")
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    def document(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        found, out, err = self(*arguments, "-o", "json")
        assert found == code, err
        return json.loads(out)


@contextmanager
def written(twin: ModuleType, book: Any, home: Path, name: str = "bob") -> Iterator[tuple[Hosted[Any], Any]]:
    """A node on `home`/name, served from another thread, with that member's log of the book."""

    @asynccontextmanager
    async def both() -> AsyncIterator[Any]:
        env = Env()
        found = await book(home)
        await found.write()
        async with twin.open_node(Settings(home / name, name)) as node:
            node.journal = Journal(env, home / name / "catalog.db", getattr(found, name))
            async with serve_api(node, env, host="127.0.0.1", port=0, token=""):
                yield found
        await found.close()

    hosted = Hosted(both)
    found = hosted.started.result(10)
    try:
        yield hosted, found
    finally:
        hosted.stop().result(10)


@pytest.fixture(params=["running", "stopped"])
def shell(
    request: pytest.FixtureRequest, twin: ModuleType, book: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Iterator[Shell]:
    """The same log, told by a node and read from its file."""
    with written(twin, book, tmp_path):
        if request.param == "running":
            yield Shell(tmp_path / "bob", capfd)
            return
    yield Shell(tmp_path / "bob", capfd)


def test_programs_get_every_event_as_a_document(shell: Shell) -> None:
    found = shell.lines("log")
    assert sorted(entry["kind"] for entry in found) == sorted(KINDS)
    assert [(entry["height"], entry["id"]) for entry in found] == sorted((e["height"], e["id"]) for e in found)
    seen: set[str] = set()
    for entry in found:
        assert set(entry["parents"]) <= seen  # oldest first: nothing stands on what comes later
        assert entry["time"].startswith("20")
        seen.add(entry["id"])
    genesis, version = found[0], next(entry for entry in found if entry["kind"] == "version")
    assert (genesis["previous"], genesis["node_id"], genesis["body"]) == (None, "ada", {"name": "test", "open": True})
    assert version["body"]["manifest"].startswith("bafyrei")  # links as people write them
    assert [entry["text"] for entry in found if entry["kind"] == "delete"] == ["deletes zones"]


def test_kinds_and_the_newest_are_picked(shell: Shell) -> None:
    assert [entry["kind"] for entry in shell.lines("log", "--kind", "up", "--kind", "merge")] == ["up", "up", "merge"]
    assert [entry["kind"] for entry in shell.lines("log", "--last", "2")] == ["merge", "delete"]
    assert shell.lines("log", "--last", "0") == []
    assert len(shell.lines("log", "--last", str(10**30))) == len(KINDS)


def test_a_kind_that_is_none_is_told(shell: Shell) -> None:
    code, out, err = shell("log", "--kind", "versions", "--kind", "up")
    assert (code, out.count("\tup\t")) == (0, 2)
    assert "versions: this p2pnode knows no such kind; it knows genesis, up, " in err
    assert "knows no such kind" not in shell("log", "--kind", "up")[2]


def test_on_a_narrow_terminal_what_was_said_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"time": "2026-11-20T09:08:09.1+00:00", "height": 12345, "node_id": "a-very-long-name-of-a-node"}
    entry |= {"kind": "down", "text": "saw another go down, whose up was …274lt4vu", "id": "bafyreigys7segm"}
    for columns, expected in (
        (80, "11-20 09:08:09    12345  a-very-lo…  down      saw another go down"),
        (120, "2026-11-20 09:08:09    12345  a-very-long-n…  down      saw another go down"),
    ):
        shown = io.StringIO()
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "stdout", shown)
        log._lines_on_terminal()(entry)
        monkeypatch.undo()
        line = shown.getvalue().splitlines()[1]
        assert line.startswith(expected), line
        assert len(line) <= columns


def test_a_pipe_gets_a_line_an_event(shell: Shell) -> None:
    code, out, _ = shell("log")
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows[0] == ["time", "height", "node_id", "kind", "text", "id"]
    assert [row[3] for row in rows[1:]] == [entry["kind"] for entry in shell.lines("log")]
    assert {len(row) for row in rows} == {6}


def test_a_whole_log_is_verified(shell: Shell, request: pytest.FixtureRequest) -> None:
    found = shell.document("log", "verify")
    assert found["ok"]
    assert found["running"] == ("running" in request.node.name)
    assert (found["events"], found["blocks"], found["forks"], found["damaged"]) == (len(KINDS), 2, [], [])
    assert found["heads"] == [shell.lines("log")[-1]["id"]]
    assert [len(found[name]) for name in ("fingerprint", "digest")] == [64, 64]
    assert all(check["ok"] for check in found["checks"])
    code, out, _ = shell("log", "verify")
    assert (code, out.splitlines()[-1].endswith(": whole")) == (0, True)


def test_a_damaged_log_is_exit_5_and_names_the_record(shell: Shell) -> None:
    with sqlite3.connect(shell.home / "catalog.db") as connection:
        (event_id,) = connection.execute("SELECT id FROM events WHERE place = 5").fetchone()
        connection.execute("UPDATE events SET wire = wire || x'00' WHERE place = 5")
    found = shell.document("log", "verify", code=5)
    assert not found["ok"]
    assert next((one["check"], one["place"]) for one in found["damaged"]) == ("records", 5)
    code, out, _ = shell("log", "verify")
    assert code == 5
    assert "NOT WHOLE" in out
    assert len(shell.lines("log")) == len(KINDS) - 1  # the rest can still be read
    assert event_id not in [entry["id"] for entry in shell.lines("log")]


def test_the_file_is_only_read_where_no_node_runs(
    twin: ModuleType, book: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with written(twin, book, tmp_path):
        assert "No node runs" not in Shell(tmp_path / "bob", capfd)("log")[2]
    shell = Shell(tmp_path / "bob", capfd)
    before = (tmp_path / "bob" / "catalog.db").read_bytes()
    assert "No node runs on" in shell("log")[2]
    assert "No node runs on" not in shell("log", "-q")[2]
    # A node that was killed leaves its address behind; its pid may be somebody else's by now.
    write_api_file(tmp_path / "bob", ApiAccess("http://127.0.0.1:9", "token", os.getpid(), "bob"))
    assert shell.document("log", "verify")["ok"]
    assert (tmp_path / "bob" / "catalog.db").read_bytes() == before
    assert shell("log", "--follow")[0] == 3  # nothing will come
    assert Shell(tmp_path / "empty", capfd)("log")[0] == 3


def test_options_of_the_list_are_none_of_verify(shell: Shell) -> None:
    code, _, err = shell("log", "--last", "3", "verify")
    assert (code, "for `log` itself" in err) == (2, True)


def test_follow_goes_on_until_it_is_interrupted(
    twin: ModuleType, book: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with written(twin, book, tmp_path, "ada") as (hosted, found):
        command = [sys.executable, "-m", "p2pnode", "--home", str(tmp_path / "ada"), "-o", "json", "log", "--follow"]
        process = subprocess.Popen(
            [*command, "--kind", "up"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        overdue = threading.Timer(60, process.kill)
        overdue.start()
        try:
            assert process.stdout is not None
            told = [json.loads(process.stdout.readline())["node_id"] for _ in range(2)]
            assert sorted(told) == ["ada", "bob"]
            hosted.call(lambda: found.ada.write(records.MERGE, "", {})).result(10)
            hosted.call(lambda: found.up(found.ada, "ada-again")).result(10)
            assert json.loads(process.stdout.readline())["node_id"] == "ada-again"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
            assert (process.returncode, out, err) == (0, "", "")
        finally:
            overdue.cancel()
            process.kill()


def test_follow_says_that_the_node_stopped(twin: ModuleType, book: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "p2pnode", "--home", str(tmp_path / "ada"), "log", "--follow", "--last", "1"]
    with written(twin, book, tmp_path, "ada"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline(), process.stdout.readline()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert "stopped in the middle of its answer" in err
