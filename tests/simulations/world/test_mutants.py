"""The world has teeth: each flaw that is planted into a copy of the production code is found by one of its checks.

`mutants.toml` lists them. A mutant is the four packages with one text changed; the world runs from there, in
processes of its own, seed after seed, until one reports a broken promise. CI plants five, other ones every day, and
says which; all of them are planted by night. By hand:

    pytest tests/simulations/world/test_mutants.py -m 'nightly or not nightly' -k 'naive and heads'
"""

from __future__ import annotations

import ast
import datetime
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent.parent
PACKAGES = ("protocols", "bootstrap", "p2pnode", "simulations")
#: Seeds within which a flaw must show, and members of the swarms that look for it.
SEEDS = 200
NODES = 5
#: Mutants planted in CI, and the day that chooses them.
DAILY = 5
TODAY = datetime.datetime.now(datetime.UTC).date()
#: Seeds of the unchanged code in which nothing may be found: few in CI, as many as the mutants get by night.
SOUND_SEEDS, MORE_SOUND_SEEDS = 3, SEEDS
#: A run that was too quiet to prove anything found nothing, and a mistake of the world is none of a flaw.
NO_FINDING = ("weak seed", "the world broke")

#: Runs the command of the packages in that folder, and of no others.
RUN = """
import sys
import p2pnode, simulations
folder = sys.argv.pop(1)
assert p2pnode.__file__.startswith(folder) and simulations.__file__.startswith(folder), p2pnode.__file__
from p2pnode.api.cli import main
main()
"""


@dataclass(frozen=True)
class Mutant:
    """One flaw: which text becomes which."""

    name: str
    kind: str
    why: str
    file: str
    old: str
    new: str

    def plant(self, folder: Path) -> None:
        """Into the packages in that folder."""
        path = folder / self.file
        path.write_text(self.flawed(path.read_text(encoding="utf-8")), encoding="utf-8")

    def flawed(self, text: str) -> str:
        assert text.count(self.old) == 1, f"{self.file} has changed: say anew where {self.name!r} is planted"
        return text.replace(self.old, self.new)


MUTANTS = [Mutant(**one) for one in tomllib.loads(Path(__file__).with_name("mutants.toml").read_text())["mutant"]]
OF_TODAY = {
    mutant.name
    for mutant in sorted(MUTANTS, key=lambda one: hashlib.sha256(f"{TODAY} {one.name}".encode()).digest())[:DAILY]
}


def copied(folder: Path) -> Path:
    """The packages as they are, in that folder."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def findings(folder: Path, seeds: int) -> Generator[tuple[int, list[str]], None, None]:
    """Seed after seed, what the world of these packages finds wrong in it. Whoever has seen enough closes this."""
    command = [sys.executable, "-c", RUN, str(folder), "-o", "json", "sim", "world"]
    command += ["--nodes", str(NODES), "--seeds", f"1..{seeds}"]
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,
        )
    assert process.stdout is not None
    told = 0
    try:
        for line in process.stdout:
            found = json.loads(line)
            told += 1
            yield found["seed"], [text for text in found["violations"] if not text.startswith(NO_FINDING)]
        assert told == seeds, f"the world itself failed: {(folder / 'stderr').read_text()[-2000:]}"
    finally:
        # Its workers too.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_planted_where_it_belongs(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(mutant.flawed(source))) != ast.dump(ast.parse(source))


def test_there_are_enough_of_each_kind() -> None:
    kinds = [mutant.kind for mutant in MUTANTS]
    assert (kinds.count("mechanical") >= 10, kinds.count("designed") >= 10) == (True, True)
    assert (
        len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) == kinds.count("mechanical") + kinds.count("designed")
    )


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seeds", [SOUND_SEEDS, pytest.param(MORE_SOUND_SEEDS, marks=pytest.mark.nightly)])
def test_nothing_is_found_where_nothing_is_planted(tmp_path: Path, seeds: int) -> None:
    assert [(seed, found) for seed, found in findings(copied(tmp_path), seeds) if found] == []


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, id=mutant.name, marks=[] if mutant.name in OF_TODAY else pytest.mark.nightly)
        for mutant in MUTANTS
    ],
)
def test_a_mutant_is_caught(mutant: Mutant, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    mutant.plant(copied(tmp_path))
    seen = findings(tmp_path, SEEDS)
    for seed, found in seen:
        if found:
            seen.close()
            told = f"{TODAY}: {mutant.name!r} is caught by seed {seed}: {found[0][:100]}"
            request.config.pluginmanager.getplugin("terminalreporter").write_line(told)
            return
    pytest.fail(f"no check notices within {SEEDS} seeds: {mutant.why}")
