"""The secret on disk: made once, kept private, refused when it is not what it should be."""

from __future__ import annotations

import os
import stat

import pytest

from bootstrap.identity import Identity, encode_seed
from p2pnode.env import LocalDisk
from p2pnode.errors import ConfigError
from p2pnode.storage.identity_file import load_or_create


def test_made_once_private_and_read_again(tmp_path):
    path = tmp_path / "home" / "identity.key"
    first = load_or_create(LocalDisk(), path, os.urandom)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create(LocalDisk(), path, lambda size: b"\xff" * size) == first
    assert [entry.name for entry in path.parent.iterdir()] == ["identity.key"]


def test_it_is_drawn_from_the_given_source(tmp_path):
    made = load_or_create(LocalDisk(), tmp_path / "identity.key", lambda size: b"\x07" * size)
    assert made == Identity.from_seed(b"\x07" * 32)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_file_that_others_can_read_is_refused(tmp_path, mode):
    path = tmp_path / "identity.key"
    load_or_create(LocalDisk(), path, os.urandom)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}") as error:
        load_or_create(LocalDisk(), path, os.urandom)
    assert "chmod 600" in error.value.advice


@pytest.mark.parametrize("text", [b"", b"nonsense", encode_seed(bytes(32))[:-5], os.urandom(5000)])
def test_a_malformed_file_is_refused_and_left_alone(tmp_path, text):
    path = tmp_path / "identity.key"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not an identity file"):
        load_or_create(LocalDisk(), path, os.urandom)
    assert path.read_bytes() == text


def test_what_a_crash_left_behind_is_no_hindrance(tmp_path):
    path = tmp_path / "identity.key"
    path.with_name("identity.key.new").write_bytes(b"half a ke")
    made = load_or_create(LocalDisk(), path, os.urandom)
    assert load_or_create(LocalDisk(), path, os.urandom) == made
