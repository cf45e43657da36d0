"""What the pages say is there: links lead somewhere, commands and their options exist, examples parse."""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from p2pnode.api.cli import globals_first, run
from p2pnode.api.config import DistributedConfig
from p2pnode.core import records
from p2pnode.core.merging import HEADS_MAX, MERGE_AFTER_S
from p2pnode.errors import NotDurable
from p2pnode.services.authoring import COPIES, DURABLE_S
from simulations.world.options import WorldOptions
from simulations.world.plan import MENU
from simulations.world.report import Report

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "protocols" / "SPEC.md"]
#: Words of a line after which no option of ours follows.
END = {"|", ";", "#", "&&", ">"}


def fenced(language: str) -> list[str]:
    """The blocks of code in that language, of all pages."""
    blocks = [re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S) for page in PAGES]
    return [block for page in blocks for block in page]


def commands() -> list[list[str]]:
    """Every `p2pnode …` of the consoles, as words."""
    text = "".join(fenced("console")).replace("\\\n", " ")
    lines = re.findall(r"^\S*\$ (?:\w+=\S+ )*p2pnode (.*)$", text, re.M)
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        found.append(words[: next((at for at, word in enumerate(words) if word in END), len(words))])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [page.name for page in PAGES if page.name not in index] == []


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_and_their_options_exist(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arranged = globals_first(words)
    while arranged[0].startswith("-"):
        del arranged[:2]
    depth = next((at for at in (3, 2, 1) if run([*arranged[:at], "--help"]) == 0 and "Usage" in _last(capsys)), 0)
    assert depth, words
    run([*arranged[:depth], "--help"])
    told = capsys.readouterr().out
    for option in [word for word in arranged if word.startswith("--")]:
        assert f"  {option} " in told, option


def _last(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_the_world_is_told_as_it_is() -> None:
    page = (ROOT / "docs" / "simulation.md").read_text()
    told = set(re.findall(r"`([^`\n]+)`", page))
    sources = [path.read_text() for path in (ROOT / "simulations" / "world").glob("*.py")]
    broken = {name for source in sources for name in re.findall(r'Violation\("([^"]+)"', source)}
    assert broken
    assert broken | set(MENU) <= told
    table = page.split("| goes wrong |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(MENU)
    plain = WorldOptions()
    assert f"within {plain.converge_limit_s:.0f} virtual seconds" in page
    assert f"at least {plain.writes} writes" in page
    assert f"stands still for {plain.pause_s:.0f} s" in page
    assert plain.fault_chance == 0.5
    assert "a chance of one half" in page
    example = json.loads(re.search(r"^\{.*\}$", page, re.M)[0])  # type: ignore[index]
    assert list(example) == list(Report(WorldOptions(), 0, 0, 0, 0.0, 0.0, "", ()).as_document())


def test_the_clock_is_told_as_it_is() -> None:
    page = (ROOT / "docs" / "clock.md").read_text()
    kinds = {value for name, value in vars(records).items() if name.isupper() and type(value) is str}
    table = page.split("| kind | says |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == kinds
    assert f"min({COPIES}, members)" in page
    assert f"more than {HEADS_MAX} heads stay for {MERGE_AFTER_S:.0f} s" in page
    assert f"fails with `{NotDurable.code}`" in page
    assert f"so many within {DURABLE_S:.0f} s" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    named = re.findall(r"`((?:protocols|p2pnode|simulations|tests|docs)/[\w./-]+)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_hold_nothing_that_mermaid_takes_for_its_own(page: Path) -> None:
    for picture in re.findall(r"^```mermaid\n(.*?)^```", page.read_text(), re.M | re.S):
        kind = picture.split()[0]
        assert kind in ("flowchart", "sequenceDiagram")
        assert kind == "flowchart" or ";" not in picture  # the end of a statement there
        assert "%%" not in picture
        words = [line.split() for line in picture.splitlines() if line.strip()]
        opened = [line for line in words if line[0] in ("subgraph", "par", "alt", "loop", "opt")]
        assert len(opened) == words.count(["end"])


def test_there_are_commands_and_examples() -> None:
    assert len(commands()) > 12
    assert len(fenced("python")) > 2


@pytest.mark.parametrize("source", fenced("python"))
def test_python_parses(source: str) -> None:
    compile(source, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("source", fenced("toml"))
def test_configuration_loads(source: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(source.replace("12D3Koo…", "12D3KooW").replace('"…"', f'"{"ab" * 32}"'))
    config = DistributedConfig.load(tmp_path)
    assert tomllib.loads(source)["distributed"]["node_id"] == config.node_id
