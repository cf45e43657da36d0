"""What the world may know of a node that nobody outside a node may: its parts.

A real node shows its deeds. The world also has to write what no deed writes, lie with a node's own key, and compare
what nodes know; it reaches into them here and nowhere else.
"""

from __future__ import annotations

from bootstrap.identity import Identity
from p2pnode.core.membership import State
from p2pnode.core.model import DatasetRecord, Manifest
from p2pnode.env.net import RawStream
from p2pnode.net.peers import Peers
from p2pnode.node import Node
from p2pnode.services.health import HealthService
from p2pnode.services.ledger import Ledger
from p2pnode.services.metadata import MetadataService


def metadata_of(node: Node) -> MetadataService:
    return node._metadata


def ledger_of(node: Node) -> Ledger:
    return node._metadata.ledger


def peers_of(node: Node) -> Peers:
    return node._net


def health_of(node: Node) -> HealthService:
    return node._health


def identity_of(node: Node) -> Identity:
    return node._identity


def state_of(node: Node, peer_id: str) -> State:
    """How the node's failure detector sees a member."""
    return node._health.state_of(peer_id)


def log_is_unreadable(node: Node) -> bool:
    """Whether sqlite gave the node's log up."""
    return ledger_of(node)._log.is_unreadable


def session_of(node: Node) -> bytes:
    """The session in which this life records."""
    return ledger_of(node)._session


def should_hold(node: Node, manifest: Manifest) -> list[list[str]]:
    """Whom this node's own placement names for each shard of a manifest."""
    return node._datasets.should_hold(manifest)


async def define(node: Node, name: str, description: str) -> DatasetRecord:
    """A dataset without data, known to the swarm."""
    return await node._datasets.define(name, description)


async def raw_stream(node: Node, peer_id: str, protocol_id: str) -> RawStream:
    """A stream under the node's own key, past everything that keeps a node honest."""
    return await node._transport.open_stream(peer_id, protocol_id)


def waiting_of(node: Node) -> tuple[list[int], list[int]]:
    """Events, and their bytes, that wait for what they stand on, by sender."""
    room = ledger_of(node).clock._waiting
    return [len(guests) for guests in room._by_source.values()], list(room._bytes.values())


def blocks_of(node: Node) -> list[bytes]:
    """Every block on its disk that reads."""
    log = ledger_of(node)._log
    return [block for cid in log.block_ids() if (block := log.read_block(cid)) is not None]
