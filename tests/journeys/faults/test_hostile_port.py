"""Strangers at a real node's port: nonsense and silence keep nobody from working, and a newcomer still gets in."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import trio

from bootstrap.address import parse_bootstrap
from p2pnode import DistributedDatasetManager
from simulations.local import LocalNode, LocalSwarm

IDLE_SOCKETS = 300
DIAL_MAX_S = 3.0
NONSENSE = [
    b"",
    b"\0" * 70_000,
    b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
    b"\x13/multistream/1.0.0\n" + b"\x07/noise\n" + b"\xff" * 4096,
    b"\x13/multistream/1.0.0\n" + b"\xff" * 70_000,
    b"\xff\xff\xff\xff\x7f" * 100,
]


def door(node: LocalNode) -> tuple[str, int]:
    [address] = parse_bootstrap(node.addresses[:1], "addresses")
    return address.endpoint.host, address.endpoint.port


@contextmanager
def idle_sockets(node: LocalNode, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(door(node), timeout=5)) for _ in range(count)]


@pytest.mark.trio
async def test_strangers_at_the_port(hurt: LocalSwarm) -> None:
    victim = hurt.nodes[1]
    before = victim.log.stat().st_size
    async with hurt.client() as client:
        [shard] = await client.shard_dataset("guarded", [{"a": 1}, {"a": 2}], replication_factor=5)
        assert victim.node_id in shard.holders
        await client.get_shard(shard.shard_id, victim.node_id)

        with idle_sockets(victim, IDLE_SOCKETS):
            await client.get_shard(shard.shard_id, victim.node_id)  # on a stream that was open before
            for number, text in enumerate([*NONSENSE, *(os.urandom(9000) for _ in range(20))]):
                with socket.create_connection(door(victim), timeout=5) as stranger:
                    stranger.sendall(text)
                    if number % 2:
                        stranger.settimeout(0.05)
                        try:
                            stranger.recv(4096)
                        except OSError:
                            pass  # silence or a slammed door, either will do
            began = trio.current_time()
            async with DistributedDatasetManager(
                "newcomer", "client", bootstrap_peers=victim.addresses[:1], storage_dir=hurt.base_dir / "newcomer"
            ) as newcomer:
                taken = trio.current_time() - began
                print(f"a newcomer joined in {taken:.2f} s beside {IDLE_SOCKETS} idle sockets")
                assert taken <= DIAL_MAX_S
                assert list(await newcomer.query(query="SELECT sum(a) AS s FROM guarded")) == [{"s": 3}]
            await client.get_shard(shard.shard_id, victim.node_id)
        await hurt.met()
        await client.delete_dataset("guarded")
    said = victim.log.read_bytes()[before:].decode(errors="replace")
    assert "Traceback" not in said
    assert len(said.splitlines()) < 50, "strangers do not write the log"
