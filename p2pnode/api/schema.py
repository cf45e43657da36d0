"""A dataset's schema as people write it: an Arrow schema, or words (`{"id": "integer", "v": "float[]"}`).

`integer` and `float` mean what they mean in Python (64 bits); a narrower width is asked for by name (`int32`,
`float32`). `[]` after a word is a list of it. An unknown word is refused with the words that are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from p2pnode.errors import UsageError

WORDS: dict[str, pa.DataType] = {
    **dict.fromkeys(("integer", "int", "long", "bigint", "int64"), pa.int64()),
    **{f"int{bits}": kind for bits, kind in ((8, pa.int8()), (16, pa.int16()), (32, pa.int32()))},
    **{f"uint{bits}": getattr(pa, f"uint{bits}")() for bits in (8, 16, 32, 64)},
    **dict.fromkeys(("float", "double", "number", "real", "float64"), pa.float64()),
    "float32": pa.float32(),
    **dict.fromkeys(("string", "text", "str", "varchar"), pa.string()),
    **dict.fromkeys(("boolean", "bool"), pa.bool_()),
    **dict.fromkeys(("binary", "bytes", "blob"), pa.binary()),
    "date": pa.date32(),
    **dict.fromkeys(("timestamp", "datetime"), pa.timestamp("us")),
    "time": pa.time64("us"),
}


def arrow_schema(schema: Any) -> pa.Schema | None:
    """The Arrow schema that `schema` means; None stays None.

    Raises `UsageError` for an unknown word or an empty schema.
    """
    if schema is None or isinstance(schema, pa.Schema):
        return schema
    if hasattr(schema, "__arrow_c_schema__"):
        return pa.schema(schema)
    if not isinstance(schema, Mapping) or not schema:
        raise UsageError(
            "a schema is an Arrow schema or names with words",
            advice='Write for example {"id": "integer", "text": "string", "vector": "float[]"}.',
        )
    return pa.schema([pa.field(str(name), _kind(str(name), word)) for name, word in schema.items()])


def _kind(name: str, word: Any) -> pa.DataType:
    if isinstance(word, pa.DataType):
        return word
    text = str(word).strip().lower()
    if text.endswith("[]"):
        return pa.list_(_kind(name, text[:-2]))
    if text not in WORDS:
        raise UsageError(
            f"column {name!r}: {word!r} is not a type",
            advice=f"Use one of {', '.join(WORDS)}, each with [] for a list, or an Arrow type.",
            column=name,
        )
    return WORDS[text]
