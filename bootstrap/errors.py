"""What can be wrong with an identity or an address. The node turns these into its own `ConfigError` and
`AddressError`.
"""

from __future__ import annotations


class BootstrapError(ValueError):
    """The root; ``str(error)`` names the offending input and says what is wrong with it."""


class IdentityError(BootstrapError):
    """Not a key, not a peer id, or not the right one."""


class AddressError(BootstrapError):
    """Not an address that this node can listen on or dial."""
