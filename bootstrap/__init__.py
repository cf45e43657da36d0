"""From nothing to joined: who I am, where others may be met, and whom to dial next.

No socket, no clock, no randomness of its own: `now` and an RNG are handed in, decisions come out.
"""
