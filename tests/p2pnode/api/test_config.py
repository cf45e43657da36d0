"""Configuration: the seed's table, precedence, origins, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pnode.api.config import DistributedConfig
from p2pnode.core.model import NodeRole
from p2pnode.errors import AddressError, ConfigError

SEED = """
[distributed]
# Node configuration
node_id = "node-1"
role = "hybrid"  # coordinator, worker, hybrid, or client
listen_addresses = ["/ip4/0.0.0.0/tcp/0"]
bootstrap_peers = ["/ip4/104.131.131.82/tcp/4001/p2p/QmaCp..."]

# Capabilities
capabilities = ["vector_search", "high_memory", "graph_processing"]

# Dataset sharding
default_shard_size = 1001
default_replication_factor = 4
use_consistent_hashing = false

# Resilience settings
max_retries = 6
backoff_factor = 2.5
circuit_breaker_threshold = 7
circuit_breaker_timeout = 61

# Health monitoring
health_check_interval = 62  # seconds
collect_metrics = false
metrics_retention_days = 31

# Performance
max_concurrent_transfers = 11
max_concurrent_queries = 6
prefetch_shards = false
"""
PEER = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("P2PNODE_")]:
        monkeypatch.delenv(name)


def write(home: Path, text: str) -> Path:
    (home / "config.toml").write_text(text)
    return home


def test_the_seeds_table_loads_and_every_key_reaches_the_settings_or_is_said_not_to(tmp_path: Path) -> None:
    config = DistributedConfig.load(write(tmp_path, SEED))
    config.bootstrap_peers = [PEER]
    settings = config.to_settings(tmp_path)
    assert settings.node_id == "node-1"
    assert settings.role is NodeRole.HYBRID
    assert settings.listen == ("/ip4/0.0.0.0/tcp/0",)
    assert settings.bootstrap == (PEER,)
    assert settings.capabilities == ("vector_search", "high_memory", "graph_processing")
    assert (settings.shard_rows, settings.replicas, settings.use_consistent_hashing) == (1001, 4, False)
    assert (settings.retries, settings.backoff_factor) == (6, 2.5)
    assert (settings.breaker_threshold, settings.breaker_timeout_s) == (7, 61)
    assert (settings.transfers_max, settings.queries_max) == (11, 6)
    assert config.unread == ["health_check_interval", "collect_metrics", "metrics_retention_days", "prefetch_shards"]
    assert DistributedConfig.load(tmp_path / "elsewhere").unread == []


def test_our_sections_reach_the_settings(tmp_path: Path) -> None:
    key = "ab" * 32
    text = f"""
    [membership]
    probe_s = 0.5
    [query]
    memory_limit = "1GiB"
    timeout_s = 5
    workers = 3
    [network]
    swarm_key = "{key}"
    """
    settings = DistributedConfig.load(write(tmp_path, text)).to_settings(tmp_path)
    assert (settings.probe_s, settings.query_memory_bytes, settings.query_timeout_s) == (0.5, 1 << 30, 5)
    assert (settings.query_workers, settings.swarm_key) == (3, key)


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, '[distributed]\nnode_id = "file"\nregion = "file"\nmax_retries = 1\n[query]\nworkers = 4\n')
    monkeypatch.setenv("P2PNODE_DISTRIBUTED__REGION", "environment")
    monkeypatch.setenv("P2PNODE_DISTRIBUTED__NODE_ID", "environment")
    monkeypatch.setenv("P2PNODE_QUERY__WORKERS", "5")
    monkeypatch.setenv("P2PNODE_API", "http://127.0.0.1:1")  # a URL, not the [api] section
    config = DistributedConfig.load(tmp_path, node_id="flag", role=None, api={"port": 7, "host": None})
    assert (config.node_id, config.region, config.max_retries) == ("flag", "environment", 1)
    assert (config.query.workers, config.api.port, config.api.host) == (5, 7, "127.0.0.1")
    origins = config.origins
    assert origins["distributed.node_id"] == "flag"
    assert origins["distributed.region"] == "P2PNODE_DISTRIBUTED__REGION"
    assert origins["query.workers"] == "P2PNODE_QUERY__WORKERS"
    assert origins["distributed.max_retries"] == str(tmp_path / "config.toml")
    assert origins["distributed.role"] == "default"
    assert origins["api.port"] == "flag"
    assert set(origins) == set(config.values())


def test_the_environment_takes_lists_with_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PNODE_DISTRIBUTED__CAPABILITIES", "gpu, high_memory")
    assert DistributedConfig.load(tmp_path).capabilities == ["gpu", "high_memory"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[distributed]\nnod_id = 1", "distributed.nod_id"),
        ("[distributed]\nnode_id = 1", "distributed.node_id"),
        ('[distributed]\nnode_id = "a/b"', "distributed.node_id"),
        ('[distributed]\nrole = "boss"', "distributed.role"),
        ('[distributed]\ndefault_shard_size = "1000"', "distributed.default_shard_size"),
        ("[distributed]\ndefault_shard_size = 0", "distributed.default_shard_size"),
        ("[distributed]\ndefault_shard_size = 1.5", "distributed.default_shard_size"),
        ("[distributed]\ndefault_shard_size = true", "distributed.default_shard_size"),
        ('[distributed]\nlisten_addresses = "/ip4/127.0.0.1/tcp/0"', "distributed.listen_addresses"),
        ("[distributed]\nlisten_addresses = [1]", "distributed.listen_addresses"),
        ("[distributed]\nprefetch_shards = 1", "distributed.prefetch_shards"),
        ("[distributed]\nbackoff_factor = nan", "distributed.backoff_factor"),
        ('[query]\nmemory_limit = "plenty"', "query.memory_limit"),
        ('[network]\nswarm_key = "ab"', "network.swarm_key"),
        ("[api]\nport = 70000", "api.port"),
        ("[apis]\nport = 7", "apis"),
        ("port = 7", "port"),
    ],
)
def test_an_unknown_key_or_a_wrong_type_is_named(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DistributedConfig.load(write(tmp_path, text))
    assert caught.value.details["key"] == key
    assert key in caught.value.message
    assert "config.toml" in caught.value.message


def test_the_environments_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PNODE_QUERY__WORKERS", "many")
    with pytest.raises(ConfigError, match="P2PNODE_QUERY__WORKERS"):
        DistributedConfig.load(tmp_path)
    monkeypatch.delenv("P2PNODE_QUERY__WORKERS")
    monkeypatch.setenv("P2PNODE_QUERY__WORKER", "1")
    with pytest.raises(ConfigError, match=r"query\.worker"):
        DistributedConfig.load(tmp_path)


def test_a_file_that_is_not_toml_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml"):
        DistributedConfig.load(write(tmp_path, "[distributed"))
    with pytest.raises(ConfigError, match="no such file"):
        DistributedConfig.load(file=tmp_path / "absent.toml")


def test_a_malformed_address_loads_and_fails_at_the_start(tmp_path: Path) -> None:
    config = DistributedConfig(node_id="n", bootstrap_peers=[PEER, "nonsense"])
    assert config.bootstrap_peers[1] == "nonsense"
    with pytest.raises(AddressError, match=r"bootstrap_peers\[1\].*nonsense"):
        config.to_settings(tmp_path)
    with pytest.raises(AddressError, match=r"listen_addresses\[0\]"):
        DistributedConfig(listen_addresses=["/tcp/1"]).to_settings(tmp_path)


def test_programmatic_as_in_the_seed(tmp_path: Path) -> None:
    config = DistributedConfig(
        node_id="node-1",
        role="hybrid",
        listen_addresses=["/ip4/0.0.0.0/tcp/0"],
        bootstrap_peers=[PEER],
        capabilities=["vector_search", "high_memory"],
    )
    assert config.role is NodeRole.HYBRID
    with pytest.raises(ConfigError, match="capabilites"):
        DistributedConfig(capabilites=["typo"])


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    config = DistributedConfig.load(tmp_path, network={"swarm_key": "cd" * 32}, api={"token": "tttt"})
    assert "cdcd" not in repr(config)
    assert "tttt" not in repr(config)
    assert config.values()["network.swarm_key"] == "(set)"


def test_homes_have_the_nodes_name_and_nameless_nodes_a_stable_one(tmp_path: Path) -> None:
    assert DistributedConfig(node_id="ada").to_settings().home.name == "ada"
    one, two = (DistributedConfig().to_settings(tmp_path / name).node_id for name in ("a", "b"))
    assert one != two
    assert one == DistributedConfig().to_settings(tmp_path / "a").node_id
