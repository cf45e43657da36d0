"""What every protocol test needs: all messages of all protocols, and one honest example of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from protocols.message import Message


def _least(info: msgspec.inspect.Type) -> Any:
    match info:
        case msgspec.inspect.StructType():
            return info.cls(**{field.name: _least(field.type) for field in info.fields if field.required})
        case msgspec.inspect.StrType():
            return "x" * (info.min_length or 0)
        case msgspec.inspect.BytesType():
            return b"\x01" * (info.min_length or 0)
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return 0
        case msgspec.inspect.BoolType():
            return False
        case msgspec.inspect.ListType():
            return []
    raise AssertionError(f"no example of {info}")


@pytest.fixture(scope="session")
def sample() -> Callable[[type[Message]], Message]:
    """The smallest valid message of a class: its required fields only."""
    return lambda kind: _least(msgspec.inspect.type_info(kind))
