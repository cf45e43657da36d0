"""What the global options say, and the way from there to the node."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from p2pnode.api.client import Client


class OutputFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Session:
    """One invocation."""

    home: Path | None
    api: str | None
    json: bool
    verbose: bool = False
    quiet: bool = False

    @classmethod
    def of(cls, context: typer.Context) -> Session:
        session = context.find_object(cls)
        assert session is not None
        return session

    def client(self) -> Client:
        """The node to talk to. Raises `SwarmUnreachable` (exit 3) when none runs."""
        from p2pnode.api.client import Client
        from p2pnode.api.home import find_access

        home = None if self.home is None else self.home.expanduser().absolute()
        return Client(find_access(home, self.api, os.environ.get("P2PNODE_API__TOKEN")))
