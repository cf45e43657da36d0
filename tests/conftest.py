"""What holds for every test: the quick ones first, and results judged rather than how busy the machine is."""

from __future__ import annotations

import pytest
import structlog
from hypothesis import settings

from p2pnode.api.logs import keep_off_stdout

settings.register_profile("house", deadline=None)
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pure tests, then journeys: a mistake in the small shows before a swarm is started for it."""
    items.sort(key=lambda item: item.get_closest_marker("journey") is not None)


@pytest.fixture(autouse=True)
def _logs_stay_off_stdout() -> None:
    """As for any program that embeds a node. `capture_logs` and its like leave structlog with its own defaults."""
    structlog.reset_defaults()
    keep_off_stdout()
