"""Schemas as people write them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from p2pnode.api.schema import arrow_schema
from p2pnode.errors import UsageError


def test_the_seeds_words() -> None:
    assert arrow_schema({"id": "integer", "text": "string", "vector": "float[]"}) == pa.schema(
        [("id", pa.int64()), ("text", pa.string()), ("vector", pa.list_(pa.float64()))]
    )


def test_arrow_schemas_and_types_pass_through() -> None:
    schema = pa.schema([("a", pa.int8())])
    assert arrow_schema(schema) is schema
    assert arrow_schema(None) is None
    assert arrow_schema({"a": pa.int8(), "b": "int32[][]"}) == pa.schema(
        [("a", pa.int8()), ("b", pa.list_(pa.list_(pa.int32())))]
    )


def test_an_unknown_word_names_its_column() -> None:
    with pytest.raises(UsageError, match=r"'size'.*'floaty'"):
        arrow_schema({"id": "integer", "size": "floaty"})
    for wrong in ({}, "integer", ["id"]):
        with pytest.raises(UsageError):
            arrow_schema(wrong)
