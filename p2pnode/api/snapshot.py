"""Data handed to a publish, safe from what the caller does with it next.

The node reads in its own threads while the caller's code goes on. Arrow and polars never change in place; a
pandas frame is copied on write, a list shallowly, both without copying the values.
"""

from __future__ import annotations

from typing import Any


def snapshot(data: Any) -> Any:
    """`data` as it is now."""
    if isinstance(data, list):
        return list(data)
    if isinstance(data, dict):
        return {name: snapshot(part) for name, part in data.items()}
    if type(data).__module__.split(".")[0] == "pandas":
        return data.copy(deep=False)
    return data
