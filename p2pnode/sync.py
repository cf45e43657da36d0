"""`p2pnode.sync.connect(…)`: the manager without a loop."""

from p2pnode.api.blocking import BlockingDatasetManager, connect

__all__ = ["BlockingDatasetManager", "connect"]
