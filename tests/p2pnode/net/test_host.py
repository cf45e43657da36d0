"""Connecting: who is proved, what is refused, what is told."""

from __future__ import annotations

import os
import socket

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import Ed25519PrivateKey, create_new_key_pair
from libp2p.crypto.keys import KeyPair, PublicKey
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.security.secio import transport as secio
from multiaddr import Multiaddr

from bootstrap.identity import Identity
from p2pnode.env.net import DialFailed, StreamBroken
from p2pnode.errors import ConfigError

ECHO = "/test/echo/1.0.0"


async def wait_until(condition, seconds: float = 3.0) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # looks at what has no event
            await trio.sleep(0.005)


@pytest.mark.trio
async def test_the_seed_is_the_identity_and_the_chosen_port_is_shown(open_node):
    seed = os.urandom(32)
    async with open_node(seed) as node:
        assert node.peer_id == Identity.from_seed(seed).peer_id
        (address,) = node.addresses()
        assert address.startswith("/ip4/127.0.0.1/tcp/")
        assert address.endswith(f"/p2p/{node.peer_id}")
        assert "/tcp/0/" not in address


@pytest.mark.trio
async def test_a_wildcard_is_spelled_out_with_loopback_last(open_node):
    async with open_node(listen="/ip4/0.0.0.0/tcp/0") as node:
        addresses = node.addresses()
        assert addresses[-1].startswith("/ip4/127.0.0.1/")
        assert not any("0.0.0.0" in address for address in addresses)


@pytest.mark.trio
async def test_connecting_takes_far_less_than_the_libraries_250_ms(open_node):
    async with open_node() as a, open_node() as b:
        started = trio.current_time()
        assert await a.dial(b.peer_id, b.addresses()) == b.addresses()[0]
        stream = await a.open_stream(b.peer_id, ECHO)
        await stream.write(b"first")
        assert await stream.read(100) == b"first"
        assert trio.current_time() - started < 0.15
        assert await a.dial(b.peer_id, []) == ""


@pytest.mark.trio
async def test_a_taken_port_is_an_error_that_names_the_setting(open_node):
    async with open_node() as node:
        taken = node.addresses()[0].partition("/p2p/")[0]
        with pytest.raises(ConfigError, match=r"listen\[0\].*in use"):
            async with open_node(listen=taken):
                pass


@pytest.mark.trio
async def test_a_peer_is_found_at_any_of_its_addresses(open_node):
    async with open_node() as a, open_node() as b, open_node() as other:
        dead = "/ip4/127.0.0.1/tcp/1"
        someone_else = other.addresses()[0].partition("/p2p/")[0]
        await a.dial(b.peer_id, [dead, someone_else, "nonsense", *b.addresses()])
        assert a.connected() == [b.peer_id]


@pytest.mark.trio
async def test_host_names_are_resolved_as_the_system_would(open_node):
    async with open_node() as a, open_node() as b:
        port = b.addresses()[0].split("/")[4]
        with pytest.raises(DialFailed, match=r"no-such-host\.invalid"):
            await a.dial(b.peer_id, [f"/dns/no-such-host.invalid/tcp/{port}"])
        await a.dial(b.peer_id, [f"/dns/localhost/tcp/{port}"])
        assert a.connected() == [b.peer_id]


@pytest.mark.trio
async def test_a_failed_dial_says_why_and_is_not_held_against_the_peer(open_node):
    seed = os.urandom(32)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"/ip4/127.0.0.1/tcp/{port}"
    async with open_node() as a:
        for _ in range(3):
            with pytest.raises(DialFailed, match="refused"):
                await a.dial(Identity.from_seed(seed).peer_id, [address])
        async with open_node(seed, listen=address) as b:
            await a.dial(b.peer_id, b.addresses())
            assert a.connected() == [b.peer_id]


@pytest.mark.trio
async def test_the_expected_peer_id_is_checked(open_node):
    async with open_node() as a, open_node() as b:
        victim = Identity.from_seed(os.urandom(32)).peer_id
        with pytest.raises(DialFailed):
            await a.dial(victim, [b.addresses()[0].partition("/p2p/")[0]])
        assert a.connected() == []
        with pytest.raises(DialFailed, match="no peer id"):
            await a.dial("not!a!peer", b.addresses())


class _Thief(Ed25519PrivateKey):
    """A private key of its own that shows the victim's public key."""

    victim: PublicKey

    def get_public_key(self):
        return self.victim


def _impostors():
    """Hosts that have the victim's public key, but not its private one, by every security the library offers."""
    victim = create_new_key_pair(bytes(range(32)))
    thief = _Thief.new()
    thief.victim = victim.public_key
    stolen = KeyPair(thief, victim.public_key)
    noise_key = create_new_x25519_key_pair().private_key
    return {
        "plaintext": {TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(stolen)},
        "secio": {TProtocol(secio.ID): secio.Transport(stolen)},
        "noise": {TProtocol(NOISE): Noise(stolen, noise_key)},
    }, stolen


@pytest.mark.trio
@pytest.mark.parametrize("security", ["plaintext", "secio", "noise"])
async def test_an_impostor_with_the_victims_public_key_gets_nowhere(open_node, security):
    securities, stolen = _impostors()
    victim = ID.from_pubkey(stolen.public_key).to_base58()
    impostor = new_host(key_pair=stolen, sec_opt=securities[security])
    seen: list[str] = []
    async with open_node() as node, impostor.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        node.on_change(lambda peer, up: seen.append(peer))
        # It comes to us as the victim …
        address, _, own = node.addresses()[0].partition("/p2p/")
        with pytest.raises(Exception), trio.fail_after(3):  # noqa: B017  # whatever the library makes of it
            await impostor.connect(PeerInfo(ID.from_base58(own), [Multiaddr(address)]))
        # … and waits for us where the victim is said to be.
        with pytest.raises(DialFailed):
            await node.dial(victim, [str(a).partition("/p2p/")[0] for a in impostor.get_addrs()])
        assert node.connected() == []
        assert seen == []


@pytest.mark.trio
async def test_a_swarm_key_lets_in_whoever_has_it_and_nobody_else(open_node, monkeypatch):
    monkeypatch.setattr("p2pnode.net.host.DIAL_ADDRESS_S", 0.5)
    key, other = "ab" * 32, "cd" * 32
    async with open_node(swarm_key=key) as a, open_node(swarm_key=key) as b, open_node(swarm_key=other) as c:
        await b.dial(a.peer_id, a.addresses())
        stream = await b.open_stream(a.peer_id, ECHO)
        await stream.write(b"inside")
        assert await stream.read(100) == b"inside"
        with pytest.raises(DialFailed):
            await c.dial(a.peer_id, a.addresses())


@pytest.mark.trio
@pytest.mark.parametrize("key", ["secret", "ab" * 31, "zz" * 32])
async def test_a_swarm_key_that_is_none_is_refused(open_node, key):
    with pytest.raises(ConfigError, match="64 hex") as error:
        async with open_node(swarm_key=key):
            pass
    assert key not in str(error.value)


@pytest.mark.trio
async def test_first_connection_and_last_loss_are_told_once(open_node):
    async with open_node() as a, open_node() as b:
        told: list[tuple[str, bool]] = []
        a.on_change(lambda peer, up: told.append((peer, up)))
        await wait_until(lambda: b.addresses())
        # Both dial at the same moment, which leaves two connections.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.dial, b.peer_id, b.addresses())
            nursery.start_soon(b.dial, a.peer_id, a.addresses())
        await wait_until(lambda: told == [(b.peer_id, True)])
        for node, peer in ((a, b.peer_id), (b, a.peer_id)):
            stream = await node.open_stream(peer, ECHO)
            await stream.write(b"both ways")
            assert await stream.read(100) == b"both ways"
        await b.disconnect(a.peer_id)
        await wait_until(lambda: told == [(b.peer_id, True), (b.peer_id, False)])
        assert a.connected() == b.connected() == []


@pytest.mark.trio
async def test_an_unknown_protocol_breaks_the_stream_and_not_the_connection(open_node):
    async with open_node() as a, open_node() as b:
        await a.dial(b.peer_id, b.addresses())
        with pytest.raises(StreamBroken, match="/no/such/1"):
            await a.open_stream(b.peer_id, "/no/such/1")
        with trio.move_on_after(0):
            await a.open_stream(b.peer_id, ECHO)
        stream = await a.open_stream(b.peer_id, ECHO)
        await stream.write(b"still here")
        assert await stream.read(100) == b"still here"
        with pytest.raises(StreamBroken, match="not connected"):
            await a.open_stream(Identity.from_seed(os.urandom(32)).peer_id, ECHO)


@pytest.mark.trio
async def test_more_connections_may_come_and_go_than_may_stand_at_once(open_node, monkeypatch):
    """The library keeps a slot for every connection it ever accepted, and refuses all after the 250th."""
    monkeypatch.setattr("p2pnode.net.host.CONNECTIONS_MAX", 4)
    async with open_node() as hub:
        for _ in range(8):
            async with open_node() as visitor:
                await visitor.dial(hub.peer_id, hub.addresses())
            await wait_until(lambda: hub.connected() == [])
