"""The query protocol: one fragment of SQL over shards that lie here, Arrow back.

A fragment is one SELECT over named tables, each of them a list of shards; the holder checks it again and runs
it in a fenced process. Batches stream as Arrow IPC; the last word carries the counts that EXPLAIN shows.
Closing the stream cancels. This file refuses anything but reading.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocols.message import ContentIds, Count, Message, ProtocolSpec, Text, Verb

PROTOCOL_ID = "/p2pnode/query/1.0.0"

#: SQL text of one fragment; DuckDB itself is happy far beyond it, a person never writes it.
SQL_BYTES_MAX = 256 << 10
#: One piece of Arrow IPC on the wire.
BATCH_BYTES_MAX = 8 << 20
#: Tables that one fragment may read.
TABLES_MAX = 64


#: (name, DuckDB type) pairs; a wider table than this is a mistake.
COLUMNS_MAX = 4096
#: A column's type: structs spell out their fields, and theirs.
TYPE_CHARS_MAX = 256 << 10
ColumnType = Annotated[str, msgspec.Meta(max_length=TYPE_CHARS_MAX)]
Columns = Annotated[list[tuple[Text, ColumnType]], msgspec.Meta(max_length=COLUMNS_MAX)]


class FragmentTable(msgspec.Struct, frozen=True, omit_defaults=True):
    """A table as the fragment's SQL names it: the union of these shards, seen through `columns`.

    `columns` are (name, DuckDB type): a shard that lacks the column shows NULL of that type.
    """

    name: Text
    cids: ContentIds
    columns: Columns = msgspec.field(default_factory=list)
    format: Annotated[str, msgspec.Meta(max_length=16)] = "parquet"


class Run(Message, frozen=True, tag="run"):
    """Run this SELECT over these tables. `timeout_ms` counts from its arrival."""

    sql: Annotated[str, msgspec.Meta(max_length=SQL_BYTES_MAX)]
    tables: Annotated[list[FragmentTable], msgspec.Meta(max_length=TABLES_MAX)]
    timeout_ms: Count = 60_000


class Batch(Message, frozen=True, tag="batch"):
    """The payload is the next piece of one Arrow IPC stream (schema, batches, end)."""


class Done(Message, frozen=True, tag="done"):
    """The fragment is complete: every named shard was read."""

    rows: Count
    shards: Count
    bytes_scanned: Count = 0
    elapsed_ms: float = 0.0


QUERY = ProtocolSpec(
    PROTOCOL_ID,
    (Verb(Run, replies=(Batch,), final=(Done,), payload_max=((Batch, BATCH_BYTES_MAX),)),),
)
