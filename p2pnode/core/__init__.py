"""Decisions, pure: what follows from what a node knows. No event loop, no disk, no clock, no chance of its own.

Methods take `now` and an RNG where they need them and return values or commands; the services perform them.
"""
