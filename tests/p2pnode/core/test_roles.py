from __future__ import annotations

import pytest

from p2pnode.core.model import NodeRole
from p2pnode.core.roles import ALLOWED, allowed, check
from p2pnode.errors import Unauthorized
from protocols.health import HEALTH
from protocols.metadata import METADATA
from protocols.query import QUERY
from protocols.shard_transfer import SHARD_TRANSFER

WORDS = {(spec.name, verb.request.verb()) for spec in (METADATA, SHARD_TRANSFER, QUERY, HEALTH) for verb in spec.verbs}


def test_every_request_of_every_protocol_stands_in_the_table_and_nothing_else():
    assert set(ALLOWED) == WORDS


@pytest.mark.parametrize(("protocol", "verb"), sorted(WORDS))
def test_only_members_write_and_orchestrate(protocol, verb):
    members_only = verb in ("push", "probe")
    for role in NodeRole:
        assert allowed(role, protocol, verb) == (role.is_member or not members_only)


def test_a_peer_that_said_nothing_counts_as_a_client():
    assert allowed(None, "metadata", "hello")
    assert not allowed(None, "metadata", "push")


def test_what_is_not_listed_is_refused_and_named():
    with pytest.raises(Unauthorized, match="drop_all of metadata"):
        check(NodeRole.COORDINATOR, "metadata", "drop_all")
    with pytest.raises(Unauthorized, match="not said hello"):
        check(None, "metadata", "push")
