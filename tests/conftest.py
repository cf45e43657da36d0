"""What holds for every test: the quick ones first, and results judged rather than how busy the machine is."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("house", deadline=None)
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pure tests, then journeys: a mistake in the small shows before a swarm is started for it."""
    items.sort(key=lambda item: item.get_closest_marker("journey") is not None)
