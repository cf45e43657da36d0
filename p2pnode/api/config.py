"""Configuration: flag > environment > HOME/config.toml > default, and for every value where it came from.

The seed's flat `[distributed]` table is `DistributedConfig` itself; our sections stand beside it. Environment
names are `P2PNODE_SECTION__KEY`. Unknown keys and wrong types are a `ConfigError` that names the key.
Addresses stay text here and are checked when the node starts (`to_settings`): a wrong file can still be
shown.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PrivateAttr, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from bootstrap import address as addresses
from bootstrap.errors import AddressError as MalformedAddress
from p2pnode.api.home import CONFIG_FILE, default_home, machine_node_id
from p2pnode.core.model import NodeRole
from p2pnode.core.settings import LOOPBACK_ANY_PORT, Settings
from p2pnode.errors import AddressError, ConfigError

#: A node_id names a directory and stands in tables and URLs.
NODE_ID = re.compile(r"[^\s/\\.][^\s/\\]{0,127}")
#: A pre-shared swarm key: 32 bytes as hex.
SWARM_KEY = re.compile(r"[0-9a-fA-F]{64}")

#: Keys of the seed's table whose parts are not built yet. They are checked like any other, so that the table loads as
#: it stands; whoever sets one is told that nothing reads it.
UNREAD = ("health_check_interval", "collect_metrics", "metrics_retention_days", "prefetch_shards")

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)


def _words(value: Any) -> Any:
    """A list may be written with commas in the environment."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _role(value: Any) -> Any:
    if isinstance(value, str) and value in set(NodeRole):
        return NodeRole(value)
    raise ValueError(f"must be one of {', '.join(NodeRole)}")


def _node_id(value: Any) -> Any:
    if isinstance(value, str) and not NODE_ID.fullmatch(value):
        raise ValueError("must be 1-128 characters without spaces or slashes, not beginning with a dot")
    return value


def _size(value: Any) -> Any:
    """Bytes, or text such as "512MB" (powers of 1000) or "1GiB" (of 1024)."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value)
    if found is None:
        raise ValueError('must be bytes, or a size such as "512MB" or "1GiB"')
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " "))


def _swarm_key(value: Any) -> Any:
    if isinstance(value, str) and value and not SWARM_KEY.fullmatch(value):
        raise ValueError("must be 64 hex characters")
    return value


Words = Annotated[list[str], NoDecode, BeforeValidator(_words)]
Role = Annotated[NodeRole, BeforeValidator(_role)]
NodeId = Annotated[str, BeforeValidator(_node_id)]
Bytes = Annotated[int, BeforeValidator(_size), Field(ge=64 << 20)]
SwarmKey = Annotated[str, BeforeValidator(_swarm_key)]
Port = Annotated[int, Field(ge=0, le=65535)]
AtLeastOne = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Membership(BaseSettings):
    """[membership]: failure detection."""

    model_config = SettingsConfigDict(env_prefix="P2PNODE_MEMBERSHIP__", extra="forbid")
    #: Seconds between probes of one peer.
    probe_s: Positive = 1.0


class Placement(BaseSettings):
    """[placement]: when a silent member is counted on no more."""

    model_config = SettingsConfigDict(env_prefix="P2PNODE_PLACEMENT__", extra="forbid")
    #: Seconds.
    down_after_s: Positive = 300.0


class Query(BaseSettings):
    """[query]: SQL workers."""

    model_config = SettingsConfigDict(env_prefix="P2PNODE_QUERY__", extra="forbid")
    memory_limit: Bytes = 512 << 20
    timeout_s: Positive = 60.0
    workers: AtLeastOne = 2
    #: Run SQL from other peers even where the kernel cannot fence it.
    allow_unfenced: bool = False


class Network(BaseSettings):
    """[network]: who may speak to this node at all."""

    model_config = SettingsConfigDict(env_prefix="P2PNODE_NETWORK__", extra="forbid")
    swarm_key: SwarmKey = Field(default="", repr=False)
    #: Listen beyond loopback although anyone who can dial may then join.
    open: bool = False


class Api(BaseSettings):
    """[api]: the local HTTP API, loopback only. Port 0 takes a free one; an empty token makes one."""

    model_config = SettingsConfigDict(env_prefix="P2PNODE_API__", extra="forbid")
    host: str = "127.0.0.1"
    port: Port = 0
    token: str = Field(default="", repr=False)


class DistributedConfig(BaseSettings):
    """One node's configuration: `DistributedConfig(node_id="node-1", role="hybrid", …)`, or `.load(home)`.

    Raises `ConfigError` naming the key for unknown keys and wrong types.
    """

    model_config = SettingsConfigDict(env_prefix="P2PNODE_DISTRIBUTED__", extra="forbid")

    node_id: NodeId | None = None
    role: Role = NodeRole.HYBRID
    listen_addresses: Words = [LOOPBACK_ANY_PORT]
    bootstrap_peers: Words = []
    capabilities: Words = []
    region: str = ""
    weight: Positive = 1.0

    default_shard_size: AtLeastOne = 1000
    default_replication_factor: AtLeastOne = 3
    use_consistent_hashing: bool = True

    max_retries: Annotated[int, Field(ge=0)] = 5
    backoff_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    circuit_breaker_threshold: AtLeastOne = 5
    circuit_breaker_timeout: Positive = 60.0

    health_check_interval: Positive = 60.0
    collect_metrics: bool = True
    metrics_retention_days: AtLeastOne = 30

    max_concurrent_transfers: AtLeastOne = 10
    max_concurrent_queries: AtLeastOne = 5
    prefetch_shards: bool = True

    membership: Membership = Field(default_factory=Membership)
    placement: Placement = Field(default_factory=Placement)
    query: Query = Field(default_factory=Query)
    network: Network = Field(default_factory=Network)
    api: Api = Field(default_factory=Api)

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _config_error(error) from None

    @classmethod
    def load(cls, home: Path | None = None, *, file: Path | None = None, **flags: Any) -> DistributedConfig:
        """The configuration of the node on `home`.

        `file` replaces `HOME/config.toml` and must exist. Flags are `key=value` of `[distributed]` or
        `section={key: value}`; those that are None were not given.
        """
        path = file if file is not None else (home / CONFIG_FILE if home is not None else None)
        layers = [
            ("default", {}),
            (str(path), _from_file(path, must_exist=file is not None)),
            ("environment", _from_environment()),
            ("flag", _from_flags(flags)),
        ]
        merged: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
        origins = {f"{section}.{key}": "default" for section, keys in _KEYS.items() for key in keys}
        for origin, layer in layers:
            for section, values in layer.items():
                merged[section].update(values)
                origins.update({f"{section}.{key}": _origin(origin, section, key) for key in values})
        flat = merged.pop("distributed")
        config = cls(**flat, **{name: _SECTIONS[name](**values) for name, values in merged.items()})
        config._origins = origins
        return config

    def with_flags(self, **flags: Any) -> DistributedConfig:
        """This configuration with some keys of `[distributed]` replaced."""
        values = {key: getattr(self, key) for key in self.model_fields_set}
        return type(self)(**{**values, **_from_flags(flags)["distributed"]})

    @property
    def origins(self) -> dict[str, str]:
        """Where each `section.key` came from: a flag, an environment name, a file, or the default."""
        return dict(self._origins)

    @property
    def unread(self) -> list[str]:
        """Keys that were set although nothing reads them yet."""
        return [key for key in UNREAD if key in self.model_fields_set]

    def values(self) -> dict[str, Any]:
        """Every `section.key` and its value; secrets are shown only as set or unset."""
        found = {f"distributed.{key}": getattr(self, key) for key in _KEYS["distributed"]}
        for section in ("membership", "placement", "query", "network", "api"):
            found.update({f"{section}.{key}": getattr(getattr(self, section), key) for key in _KEYS[section]})
        return {name: _shown(name, value) for name, value in found.items()}

    def to_settings(self, home: Path | None = None) -> Settings:
        """Checked settings for a node on `home` (default: the platform's data directory + node_id).

        Raises `AddressError` naming key and index of a malformed address.
        """
        _check_addresses("listen_addresses", self.listen_addresses, addresses.parse_listen)
        _check_addresses("bootstrap_peers", self.bootstrap_peers, addresses.parse_peer_address)
        node_id = self.node_id or machine_node_id(home)
        return Settings(
            home=home if home is not None else default_home(node_id),
            node_id=node_id,
            role=self.role,
            listen=tuple(self.listen_addresses),
            bootstrap=tuple(self.bootstrap_peers),
            region=self.region,
            weight=self.weight,
            capabilities=tuple(self.capabilities),
            open_swarm=self.network.open,
            swarm_key=self.network.swarm_key,
            shard_rows=self.default_shard_size,
            replicas=self.default_replication_factor,
            use_consistent_hashing=self.use_consistent_hashing,
            retries=self.max_retries,
            backoff_factor=self.backoff_factor,
            breaker_threshold=self.circuit_breaker_threshold,
            breaker_timeout_s=self.circuit_breaker_timeout,
            transfers_max=self.max_concurrent_transfers,
            queries_max=self.max_concurrent_queries,
            probe_s=self.membership.probe_s,
            down_after_s=self.placement.down_after_s,
            query_timeout_s=self.query.timeout_s,
            query_memory_bytes=self.query.memory_limit,
            query_workers=self.query.workers,
            allow_unfenced_sql=self.query.allow_unfenced,
        )


_SECTIONS: dict[str, type[BaseSettings]] = {
    "distributed": DistributedConfig,
    "membership": Membership,
    "placement": Placement,
    "query": Query,
    "network": Network,
    "api": Api,
}
_KEYS: dict[str, list[str]] = {
    section: [key for key in model.model_fields if key not in _SECTIONS] for section, model in _SECTIONS.items()
}
_SECRETS = {"network.swarm_key", "api.token"}


def _from_file(path: Path | None, *, must_exist: bool) -> dict[str, dict[str, Any]]:
    """The file's tables, each value strictly of its key's type: TOML has types, so nothing is guessed."""
    if path is None:
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"{path}: no such file", advice="Give --config a TOML file that exists.") from None
        return {}
    except (OSError, ValueError, RecursionError) as error:  # no UTF-8, no TOML, a number beyond all bounds
        raise ConfigError(f"{path}: {error}", advice="Write it as TOML.") from None
    for section, values in tables.items():
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {section} stands outside any section", key=section)
        for key, value in values.items():
            _check(section, key, value, strict=True, where=f"{path}: ")
    return tables


def _from_environment() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(os.environ):
        section, separator, key = name.removeprefix("P2PNODE_").partition("__")
        if name.startswith("P2PNODE_") and separator:
            _check(section.lower(), key.lower(), os.environ[name], strict=False, where=f"{name}: ")
    for section, model in _SECTIONS.items():
        values = EnvSettingsSource(model)()
        found[section] = {key: value for key, value in values.items() if key in _KEYS[section]}
    return found


def _from_flags(flags: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"distributed": {}}
    for name, value in flags.items():
        if name in _SECTIONS:
            found[name] = {key: inner for key, inner in value.items() if inner is not None}
        elif value is not None:
            found["distributed"][name] = value
    for section, values in found.items():
        for key, value in values.items():
            _check(section, key, value, strict=False)
    return found


def _check(section: str, key: str, value: Any, *, strict: bool, where: str = "") -> None:
    if section not in _SECTIONS:
        raise ConfigError(f"{where}unknown section [{section}]; known are {', '.join(_SECTIONS)}", key=section)
    if key not in _KEYS[section]:
        raise ConfigError(
            f"{where}unknown key {section}.{key}; known are {', '.join(_KEYS[section])}",
            key=f"{section}.{key}",
        )
    if isinstance(value, str) and strict and _adapter(section, key)[1]:
        raise ConfigError(f"{where}{section}.{key}: must be a list", key=f"{section}.{key}")
    try:
        _adapter(section, key)[0].validate_python(value, strict=strict)
    except ValidationError as error:
        raise _config_error(error, where, f"{section}.{key}") from None


def _adapter(section: str, key: str) -> tuple[TypeAdapter[Any], bool]:
    """The validator of one key, and whether it is a list."""
    field = _SECTIONS[section].model_fields[key]
    kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return TypeAdapter(kind), field.annotation == list[str]


def _check_addresses(key: str, texts: Sequence[str], parse: Callable[[str, str], object]) -> None:
    for index, text in enumerate(texts):
        try:
            parse(text, f"{key}[{index}]")
        except MalformedAddress as error:
            raise AddressError(str(error), key=key, index=index) from None


def _config_error(error: ValidationError, where: str = "", key: str = "") -> ConfigError:
    first = error.errors()[0]
    key = key or ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return ConfigError(f"{where}unknown key {key}", key=key)
    reason = first["msg"].removeprefix("Value error, ")
    got = "" if key in _SECRETS else f" (got {first['input']!r})"
    return ConfigError(f"{where}{key}: {reason}{got}", key=key)


def _origin(origin: str, section: str, key: str) -> str:
    return f"P2PNODE_{section.upper()}__{key.upper()}" if origin == "environment" else origin


def _shown(name: str, value: Any) -> Any:
    if name in _SECRETS:
        return "(set)" if value else ""
    return value
