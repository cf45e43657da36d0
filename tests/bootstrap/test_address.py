"""Addresses in, checked parts out, and every mistake named."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from bootstrap.address import (
    Endpoint,
    is_loopback,
    parse_bootstrap,
    parse_endpoint,
    parse_listen,
    parse_peer_address,
)
from bootstrap.errors import AddressError

PEER = "12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV"


@pytest.mark.parametrize(
    "host",
    ["/ip4/192.0.2.7", "/ip6/2001:db8::7", "/dns/node.example.org", "/dns4/a-b.example", "/dns6/localhost"],
)
def test_a_peer_address_splits_and_prints_the_same(host):
    text = f"{host}/tcp/4001/p2p/{PEER}"
    parsed = parse_peer_address(text)
    assert str(parsed) == text
    assert str(parsed.endpoint) == f"{host}/tcp/4001"
    assert parsed.peer_id == PEER
    assert str(Multiaddr(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not begin with '/'"),
        ("192.0.2.7:4001", "does not begin with '/'"),
        ("/", "does not begin with one of"),
        ("/udp/1", "does not begin with one of"),
        (f"/ip4/192.0.2.7/p2p/{PEER}", "has no /tcp/"),
        (f"/ip4/192.0.2.7/udp/4001/quic-v1/p2p/{PEER}", "has no /tcp/"),
        (f"/ip4/192.0.2.300/tcp/4001/p2p/{PEER}", "'192.0.2.300' is not an IPv4 address"),
        (f"/ip6/192.0.2.7/tcp/4001/p2p/{PEER}", "is not an IPv6 address"),
        (f"/dns/-bad-/tcp/4001/p2p/{PEER}", "is not a host name"),
        (f"/ip4/192.0.2.7/tcp/65536/p2p/{PEER}", "'65536' is not a TCP port"),
        (f"/ip4/192.0.2.7/tcp/x/p2p/{PEER}", "'x' is not a TCP port"),
        (f"/ip4/192.0.2.7/tcp/0/p2p/{PEER}", "port 0"),
        ("/ip4/192.0.2.7/tcp/4001", "has no /p2p/"),
        ("/ip4/192.0.2.7/tcp/4001/p2p/", "0 characters"),
        ("/ip4/192.0.2.7/tcp/4001/p2p/QmaCp...", "hashed"),
        (f"/ip4/192.0.2.7/tcp/4001/ws/p2p/{PEER}", "continues with /ws"),
        (f"/ip4/192.0.2.7/tcp/4001/p2p/{PEER}/p2p-circuit", "continues with"),
        ("/ip4/" + "1" * 600, "longer than"),
    ],
)
def test_every_mistake_is_named_with_its_place(text, said):
    good = f"/ip4/192.0.2.7/tcp/4001/p2p/{PEER}"
    with pytest.raises(AddressError, match=said) as error:
        parse_bootstrap([good, text], key="network.bootstrap")
    assert str(error.value).startswith("network.bootstrap[1]: ")


def test_listening():
    assert parse_listen("/ip4/0.0.0.0/tcp/0") == Endpoint("ip4", "0.0.0.0", 0)
    assert parse_listen("/ip6/::/tcp/4001") == Endpoint("ip6", "::", 4001)
    with pytest.raises(AddressError, match="own key"):
        parse_listen(f"/ip4/0.0.0.0/tcp/0/p2p/{PEER}")
    with pytest.raises(AddressError, match=r"^listen\[2\]: .* names a host"):
        parse_listen("/dns/example.org/tcp/1", "listen[2]")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/ip4/127.0.0.1/tcp/1", True),
        ("/ip4/127.9.9.9/tcp/1", True),
        ("/ip6/::1/tcp/1", True),
        ("/dns/LocalHost/tcp/1", True),
        ("/ip4/0.0.0.0/tcp/1", False),
        ("/ip4/10.0.0.1/tcp/1", False),
        ("/ip6/::/tcp/1", False),
        ("/dns/localhost.example.org/tcp/1", False),
    ],
)
def test_loopback(text, expected):
    assert is_loopback(text) is expected


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_ip_endpoint_survives_the_way_through_text(host, port):
    endpoint = Endpoint(f"ip{host.version}", str(host), port)
    assert parse_endpoint(str(endpoint)) == endpoint
    assert endpoint.is_loopback == ipaddress.ip_address(host).is_loopback


@given(
    st.text(max_size=80) | st.lists(st.sampled_from(["ip4", "tcp", "1", "p2p", PEER, "dns", "::", ""])).map("/".join)
)
@example("/ip4/1.2.3.4/tcp/१")
def test_anything_else_is_an_address_error_and_nothing_worse(text):
    try:
        parsed = parse_endpoint(text)
    except AddressError:
        return
    assert parse_endpoint(str(parsed)) == parsed
