"""Deeds: one module for each protocol, and what the node does by itself. Words stand in `protocols`."""
