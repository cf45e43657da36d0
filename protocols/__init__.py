"""What peers say to each other: messages, frames, limits, and both sides of each protocol.

No event loop, no libp2p, no clock in here: bytes go in, events come out (`protocols.machine`). `SPEC.md`
beside this file is the same contract in prose; `vectors/` holds golden messages for other implementations.
"""
