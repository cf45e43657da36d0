"""What users import: these names, and nothing heavy before one of them is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import p2pnode

PUBLIC = {
    "DistributedConfig",
    "DistributedDatasetManager",
    "Dataset",
    "NodeRole",
    "P2PNodeError",
    "QueryResult",
    "Shard",
    "__version__",
}
HEAVY = {"libp2p", "trio", "anyio", "pyarrow", "duckdb", "sqlglot", "fastapi", "pandas"}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after the statement."""
    script = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_the_public_names_are_these() -> None:
    assert set(p2pnode.__all__) == PUBLIC
    assert set(dir(p2pnode)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there_and_called_so(name: str) -> None:
    value = getattr(p2pnode, name)
    assert name == "__version__" or value.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'p2pnode' has no attribute 'Nothing'"):
        _ = p2pnode.Nothing


@pytest.mark.parametrize(
    "statement", ["import p2pnode", "import p2pnode.core", "from p2pnode import NodeRole, P2PNodeError"]
)
def test_importing_a_name_loads_only_what_it_needs(statement: str) -> None:
    assert loaded_by(statement) & HEAVY == set()


def test_the_manager_can_be_imported_without_libp2p() -> None:
    assert "libp2p" not in loaded_by("from p2pnode import DistributedDatasetManager")
