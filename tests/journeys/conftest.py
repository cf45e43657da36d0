"""Journeys drive real processes. One swarm serves every test that leaves it as it found it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pnode.api.portal import Hosted
from simulations.local import LocalSwarm

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.journey)


@pytest.fixture(scope="session")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSwarm]:
    """Six processes: a coordinator, four workers, a client. Tests neither kill nor pause them, and name their own
    datasets; those that break things start a `LocalSwarm` of their own.
    """
    base_dir = tmp_path_factory.mktemp("swarm")
    hosted = Hosted(lambda: LocalSwarm(coordinators=1, workers=4, clients=1, base_dir=base_dir))
    try:
        yield hosted.started.result()
    finally:
        hosted.stop().result()
