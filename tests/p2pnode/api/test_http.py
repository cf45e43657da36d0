"""The HTTP API: who gets in, what is bounded, and what each call answers."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import httpx
import pyarrow as pa
import pytest
import trio
import trio.testing

from p2pnode.api import http_guard
from p2pnode.api.home import ApiAccess, read_api_file
from p2pnode.api.http import ARROW_STREAM
from p2pnode.api.server import serve_api
from p2pnode.core.settings import Settings
from p2pnode.env import Env
from p2pnode.errors import ConfigError


@asynccontextmanager
async def serving(twin: ModuleType, home: Path) -> AsyncIterator[tuple[ApiAccess, httpx.AsyncClient]]:
    env = Env()
    async with (
        twin.open_node(Settings(home, "ada")) as node,
        serve_api(node, env, host="127.0.0.1", port=0, token="") as access,
        httpx.AsyncClient(
            base_url=access.url, headers={"authorization": f"Bearer {access.token}"}, trust_env=False
        ) as client,
    ):
        yield access, client


@pytest.mark.trio
async def test_only_the_owner_gets_in(twin: ModuleType, tmp_path: Path) -> None:
    async with serving(twin, tmp_path) as (access, client):
        assert (await client.get("/v1/id")).json()["node_id"] == "ada"
        assert stat.S_IMODE((tmp_path / "api").stat().st_mode) == 0o600
        assert read_api_file(tmp_path) == access
        assert access.pid == os.getpid()
        for wrong in ({}, {"authorization": "Bearer x"}, {"authorization": access.token}):
            async with httpx.AsyncClient(base_url=access.url, trust_env=False, headers=wrong) as stranger:
                for path in ("/v1/id", "/openapi.json", "/nowhere"):
                    refused = await stranger.get(path)
                    assert (refused.status_code, refused.json()["error"]) == (403, "unauthorized")
        rebound = await client.get("/v1/id", headers={"host": "evil.example"})
        assert (rebound.status_code, rebound.json()["error"]) == (403, "unauthorized")
    assert read_api_file(tmp_path) is None  # a stopped node is not found any more


@pytest.mark.trio
async def test_what_a_killed_node_was_fetching_is_gone_at_its_next_start(twin: ModuleType, tmp_path: Path) -> None:
    for name in (".get-0a", ".get-0b.part", "identity.key"):
        (tmp_path / name).write_bytes(b"x")
    async with serving(twin, tmp_path):
        assert not any(name.startswith(".get-") for name in os.listdir(tmp_path))
        assert (tmp_path / "identity.key").exists()


@pytest.mark.trio
async def test_it_listens_on_loopback_only(twin: ModuleType, tmp_path: Path) -> None:
    env = Env()
    for host in ("0.0.0.0", "192.0.2.1", "example.org"):
        async with twin.open_node(Settings(tmp_path, "ada")) as node:
            with pytest.raises(ConfigError, match=r"api\.host"):
                async with serve_api(node, env, host=host, port=0, token=""):
                    pass


@pytest.mark.trio
async def test_bodies_and_calls_are_bounded(twin: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_guard, "BODY_BYTES_MAX", 1000)
    monkeypatch.setattr(http_guard, "CALLS_MAX", 2)
    async with serving(twin, tmp_path) as (_, client):
        long = json.dumps({"sql": "SELECT" + " " * 1000}).encode()

        async def in_pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(long), 100):
                yield long[start : start + 100]

        for body in (long, in_pieces()):
            refused = await client.post("/v1/query", content=body)
            assert refused.status_code == 400
            assert "larger than" in refused.json()["message"]
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(lambda: client.post("/v1/query", json={"sql": "SLEEP"}, timeout=None))
            await trio.testing.wait_all_tasks_blocked(0.1)  # both are at work, in this very loop
            busy = await client.get("/v1/id")
            assert (busy.status_code, busy.json()["error"]) == (429, "busy")
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.1)  # both have hung up: there is room again
        assert (await client.get("/v1/id")).status_code == 200


@pytest.mark.trio
@pytest.mark.parametrize(
    ("sql", "status", "code"),
    [
        ("DROP", 400, "query"),
        ("CRASH", 400, "query"),
        ("MISSING", 503, "shard_unavailable"),
        ("BUG", 500, "internal"),
    ],
)
async def test_failures_are_documents(twin: ModuleType, tmp_path: Path, sql: str, status: int, code: str) -> None:
    async with serving(twin, tmp_path) as (_, client):
        answer = await client.post("/v1/query", json={"sql": sql})
        document = answer.json()
        assert (answer.status_code, document["error"]) == (status, code)
        assert set(document) == {"error", "message", "advice", "retryable", "details"}
        assert "Traceback" not in answer.text
        assert "ZeroDivision" not in answer.text
        assert (await client.get("/v1/id")).status_code == 200
    if sql == "MISSING":
        assert document["details"] == {"coverage": 0.5, "missing": ["s1", "s2"]}


@pytest.mark.trio
async def test_a_request_that_makes_no_sense_is_named(twin: ModuleType, tmp_path: Path) -> None:
    async with serving(twin, tmp_path) as (_, client):
        for body in ({}, {"sql": 1}, {"sql": "SELECT 1", "colour": "red"}, {"sql": "SELECT 1", "timeout_s": -1}):
            answer = await client.post("/v1/query", json=body)
            assert (answer.status_code, answer.json()["error"]) == (400, "usage")
            assert "body." in answer.json()["message"]
        assert (await client.get("/v1/datasets/nowhere")).status_code == 404
        assert (await client.get("/v1/nowhere")).status_code == 404


@pytest.mark.trio
async def test_a_publish_streams_progress_and_ends_with_its_document(twin: ModuleType, tmp_path: Path) -> None:
    async with serving(twin, tmp_path) as (_, client):
        body = {"paths": ["/a", "/b", "/c"], "name": "trips", "shard_rows": 2}
        answer = await client.post("/v1/datasets", json=body)
        *steps, last = [json.loads(line) for line in answer.text.splitlines()]
        assert [step["event"] for step in steps] in (["progress"], [])  # only the newest is told
        assert last["event"] == "done"
        assert last["document"]["rows"] == 3
        assert [shard["rows"] for shard in last["document"]["shards"]] == [2, 1]
        assert last["document"] == (await client.get("/v1/datasets/trips")).json()
        [listed] = (await client.get("/v1/datasets")).json()
        assert (listed["name"], listed["shards"], listed["rows"]) == ("trips", 2, 3)

        cid = last["document"]["shards"][0]["cid"]
        shard = await client.get(f"/v1/shards/{cid}?dataset=trips")
        assert shard.content == f"{cid} from None".encode() * 10_000
        assert (await client.get("/v1/shards/other?dataset=trips")).status_code == 404
        assert os.listdir(tmp_path) == ["api"]

        assert (await client.delete("/v1/datasets/trips")).json()["deleted"] == "trips"
        assert (await client.get("/v1/datasets")).json() == []


@pytest.mark.trio
async def test_an_answer_as_json_and_as_arrow(twin: ModuleType, tmp_path: Path) -> None:
    async with serving(twin, tmp_path) as (_, client):
        document = (await client.post("/v1/query", json={"sql": "SELECT 1"})).json()
        assert document["columns"] == [{"name": "one", "type": "BIGINT"}, {"name": "nan", "type": "DOUBLE"}]
        assert document["rows"] == [[1, "NaN"]]
        assert document["stats"]["coverage"] == 1.0
        answer = await client.post("/v1/query", json={"sql": "SELECT 1"}, headers={"accept": ARROW_STREAM})
        assert pa.ipc.open_stream(answer.content).read_all().column_names == ["one", "nan"]
        told = json.loads(answer.headers["x-p2pnode-stats"])
        assert (told["coverage"], told["notes"]) == (1.0, ["Ω 😀: gathered"])
        plan = await client.post("/v1/query", json={"sql": "SELECT 1", "dataset": "t", "explain": True})
        assert plan.json()["scans"][0]["table"] == "t"


@pytest.mark.trio
async def test_who_hangs_up_cancels_his_query(twin: ModuleType, tmp_path: Path) -> None:
    env = Env()
    async with (
        twin.open_node(Settings(tmp_path, "ada")) as node,
        serve_api(node, env, host="127.0.0.1", port=0, token="t") as access,
    ):
        headers = {"authorization": "Bearer t"}
        async with httpx.AsyncClient(base_url=access.url, headers=headers, trust_env=False) as client:
            with trio.move_on_after(0.2):
                await client.post("/v1/query", json={"sql": "SLEEP"}, timeout=None)
        with trio.fail_after(5):
            await node.unwound.wait()
