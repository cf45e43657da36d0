"""A client's wish, put to several coordinators: carried out once, whoever of them answers."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
import structlog.testing

from bootstrap.identity import verify
from p2pnode.core import records
from p2pnode.core.cid import record_cid
from p2pnode.core.holdings import Holdings
from p2pnode.core.model import EVERYWHERE, ColumnStats, NodeRole
from p2pnode.core.receipts import VersionDraft, read_receipt, receipt_body, sign_receipt
from p2pnode.core.schema import schema_bytes
from p2pnode.errors import PeerLost, UsageError
from p2pnode.services.datasets import Datasets
from p2pnode.services.proposals import Proposals
from p2pnode.services.wishes import Wishes

pytestmark = pytest.mark.trio

STATS = {"a": ColumnStats(0, 1, 9)}


def datasets_of(node):
    role = node.settings.role
    wishes = Wishes(node.identity, role, node.metadata, node.peers, alive=lambda peer: True)
    made = Datasets(node.env, role, node.metadata, wishes, Holdings(), alive=lambda peer: True)
    proposals = proposals_of(node, made)
    node.metadata.answer_with(proposals.answer, proposals.issue_ticket)
    return made


def proposals_of(node, datasets):
    return Proposals(node.env, node.identity, node.settings.role, node.metadata, datasets)


def draft_of(dataset_id, holders, *numbers, append=False, publish=""):
    order, receipts = [], {}
    for number in numbers:
        cid = record_cid(bytes([number]))
        body = receipt_body(cid, 10, 100, STATS)
        order.append(cid)
        receipts[cid] = tuple(
            read_receipt(holder.peer_id, body, sign_receipt(body, holder.identity.sign), verify) for holder in holders
        )
    schema = schema_bytes(pa.schema([("a", pa.int64())]))
    return VersionDraft(dataset_id, "parquet", schema, len(holders), {}, append, tuple(order), receipts, publish)


async def with_a_client(swarm, count=3):
    """Hybrids that know each other, their datasets, and a client's."""
    nodes = await swarm.founded(count)
    client = await swarm.node(count, NodeRole.CLIENT)
    for node in nodes:
        await client.join(node)
    return nodes, [datasets_of(node) for node in nodes], datasets_of(client)


def lose_the_first_answer(node, datasets, kind):
    """Carry the wish out, then fail as if the connection had gone before the answer left."""
    proposals, lost = proposals_of(node, datasets), []

    async def answer(peer_id, asked, body, signature):
        answered = await proposals.answer(peer_id, asked, body, signature)
        if asked == kind and not lost:
            lost.append(asked)
            raise PeerLost("gone")
        return answered

    node.metadata.answer_with(answer, proposals.issue_ticket)


async def test_a_publish_whose_answer_was_lost_is_not_carried_out_twice(swarm):
    nodes, theirs, mine = await with_a_client(swarm)
    record = await mine.define("flights")
    await mine.commit(draft_of(record.dataset_id, nodes, 1, publish="first"))
    for node, datasets in zip(nodes, theirs, strict=True):
        lose_the_first_answer(node, datasets, "publish")
    wish = draft_of(record.dataset_id, nodes, 2, append=True, publish="second")
    with pytest.raises(Exception, match="No coordinator answers"):
        await mine.commit(wish)  # each of the three has carried it out or found it carried out
    record = await mine.commit(wish)
    assert record.manifest is not None
    assert [shard.cid for shard in record.manifest.shards] == [record_cid(b"\1"), record_cid(b"\2")]
    again = (await mine.commit(replace(wish, publish="third"))).manifest
    assert again is not None
    assert len(again.shards) == 3, "another publish of the same content counts"


async def test_a_dataset_whose_definition_was_answered_by_nobody_is_one_dataset(swarm):
    nodes, theirs, mine = await with_a_client(swarm)
    for node, datasets in zip(nodes[:2], theirs[:2], strict=True):
        lose_the_first_answer(node, datasets, "define")
    record = await mine.define("flights")
    assert [known.dataset_id for known in theirs[2].all()] == [record.dataset_id]


async def test_an_id_that_is_none_defines_nothing(swarm):
    _, theirs, _ = await with_a_client(swarm, 1)
    with pytest.raises(UsageError, match="no dataset id"):
        theirs[0].define_locally("trains", "", None, "flights")


@pytest.mark.parametrize("name", ["", "  ", "x" * 129, "two\nlines", "\x1b[2J"])
async def test_a_name_that_cannot_be_shown_defines_nothing(swarm, name):
    _, theirs, _ = await with_a_client(swarm, 1)
    with pytest.raises(UsageError, match="1 to 128 characters"):
        theirs[0].define_locally(name, "", None, None)
    assert theirs[0].define_locally("a/b 'c' 👩‍👧", "", None, None).name


async def test_a_second_dataset_of_one_name_is_said_to_be_found_by_its_id_alone(swarm):
    _, theirs, _ = await with_a_client(swarm, 1)
    first = await theirs[0].define("flights")
    with structlog.testing.capture_logs() as said:
        second = await theirs[0].define("flights")
    assert [(line["event"], line["by"]) for line in said if line["event"] == "name_taken"] == [
        ("name_taken", first.dataset_id)
    ]
    assert (await theirs[0].find("flights")).dataset_id == first.dataset_id
    assert (await theirs[0].find(second.dataset_id)).dataset_id == second.dataset_id


async def test_a_name_in_sql_without_its_quotes_finds_the_dataset(swarm):
    _, theirs, _ = await with_a_client(swarm, 1)
    for name in ("trips", "my trips"):
        await theirs[0].define(name)
    assert str(theirs[0].unknown("trisp")).endswith('Did you mean trips or "my trips"?')
    assert str(theirs[0].unknown("my")).endswith('Did you mean "my trips"?')
    assert str(theirs[0].unknown("nothing")) == "There is no dataset 'nothing'."


async def test_who_is_recorded_as_down_is_neither_waited_for_nor_given_anything(swarm):
    nodes, theirs, _ = await with_a_client(swarm, 5)
    for gone in nodes[2:]:
        up = nodes[0].metadata.catalog.member(gone.peer_id).up
        for witness in nodes[:2]:
            await witness.metadata.author(records.DOWN, gone.peer_id, records.down_body(up))
    record = await theirs[0].define("flights")
    wish = replace(draft_of(record.dataset_id, nodes[:2], 1, publish="one"), replicas=EVERYWHERE)
    for gone in nodes[2:]:
        await gone.crash()
    record = await theirs[0].commit(wish)
    held = theirs[0].should_hold(record.manifest)
    assert [sorted(holders) for holders in held] == [sorted(node.peer_id for node in nodes[:2])]
    assert {len(shard.holders) + shard.short for shard in theirs[0].placed(record).shards} == {2}
    late = replace(draft_of(record.dataset_id, [nodes[0], nodes[4]], 2, publish="two"), replicas=2)
    assert (await theirs[0].commit(late)).manifest.shards, "called down after it had stored the shard"
