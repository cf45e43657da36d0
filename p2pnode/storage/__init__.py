"""Bytes by content id: shard files and their chunks, the event log, and the reading of what users publish."""
