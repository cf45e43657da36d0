"""The house rules that a machine can hold: one door to the world, no silent failures, plain modules.

A node's time, chance, disk and threads come from `p2pnode.env`; whatever goes round it cannot be simulated. The few
places that stand outside a node's loop are named below, each with its reason, and go from the list when they go
from the code.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from p2pnode.core.settings import Settings
from protocols.health import HEALTH
from protocols.message import ProtocolSpec
from protocols.metadata import METADATA
from protocols.query import QUERY
from protocols.shard_transfer import SHARD_TRANSFER

ROOT = Path(__file__).parent.parent
#: What runs in a node or makes the world that it runs in. The rest of `simulations` stands outside, by the wall clock.
PACKAGES = ("protocols", "bootstrap", "p2pnode", "simulations/world")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
#: Simulations start and measure real nodes from outside, with the world's own clock; their modules are as plain.
MODULES = sorted({*SOURCES, *(ROOT / "simulations").rglob("*.py")})

LINES_MAX = 700
FUNCTION_LINES_MAX = 70

#: Dotted names, or their beginnings up to the dot, and the rule each would break.
WORLD = {
    "time.time": "clock",
    "time.time_ns": "clock",
    "time.monotonic": "clock",
    "time.monotonic_ns": "clock",
    "time.perf_counter": "clock",
    "time.perf_counter_ns": "clock",
    "time.sleep": "clock",
    "datetime.datetime.now": "clock",
    "datetime.datetime.utcnow": "clock",
    "datetime.datetime.today": "clock",
    "datetime.date.today": "clock",
    "random.": "chance",
    "os.urandom": "chance",
    "secrets.": "chance",
    "uuid.uuid1": "chance",
    "uuid.uuid4": "chance",
    "threading.": "threads",
    "concurrent.futures.": "threads",
    "trio.to_thread.": "threads",
    "anyio.to_thread.": "threads",
    "asyncio.to_thread": "threads",
    "asyncio.run": "loop",
    "trio.run": "loop",
    "anyio.run": "loop",
}
#: A generator that somebody hands over may be named as a type; it may not be made here.
TYPES = {"random.Random"}

#: (file or folder, rule): why it may.
ALLOWED: dict[tuple[str, str], str] = {
    ("p2pnode/env/", "clock"): "the one home of the clock",
    ("p2pnode/env/", "chance"): "the one home of chance",
    ("p2pnode/env/", "threads"): "the one home of threads",
    ("p2pnode/env/", "disk"): "the one home of the disk",
    ("p2pnode/query/worker.py", "clock"): "runs in the fenced subprocess, outside any loop",
    ("p2pnode/query/fence.py", "disk"): "fences the subprocess it runs in: /proc/self/oom_score_adj",
    ("p2pnode/api/", "loop"): "the outermost shell: a command or the portal starts the loop",
    ("p2pnode/api/portal.py", "threads"): "the node's own thread beside a user's asyncio loop",
    ("p2pnode/api/manager.py", "chance"): "a dataset's id is minted before there is a node with an env",
    ("p2pnode/api/runner.py", "chance"): "names a throwaway client before there is a node with an env",
    ("simulations/world/loop.py", "loop"): "the one home of virtual time: it runs the loop that the world lives in",
    ("simulations/world/run.py", "clock"): "measures from outside how long a world took",
}


@dataclass(frozen=True)
class Finding:
    path: str
    line: int
    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.what}"

    def allowed_by(self) -> tuple[str, str] | None:
        return next((key for key in ALLOWED if self.path.startswith(key[0]) and self.rule == key[1]), None)


class Reader(ast.NodeVisitor):
    """Walks one module and remembers what its names were imported as."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.origins: dict[str, str] = {}
        self.findings: list[Finding] = []

    def find(self, node: ast.AST, rule: str, what: str) -> None:
        self.findings.append(Finding(self.path, getattr(node, "lineno", 1), rule, what))

    def dotted(self, node: ast.AST) -> str | None:
        """`t.sleep` as `time.sleep`, whatever `t` was imported as."""
        if isinstance(node, ast.Name):
            return self.origins.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value)
            return f"{base}.{node.attr}" if base else None
        return None

    def judge(self, node: ast.AST, name: str) -> None:
        for forbidden, rule in WORLD.items():
            if name == forbidden or (forbidden.endswith(".") and name.startswith(forbidden)):
                self.find(node, rule, name)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.origins[alias.asname or alias.name.split(".")[0]] = (
                alias.name if alias.asname else alias.name.split(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.origins[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def visit_Name(self, node: ast.Name) -> None:
        name = self.dotted(node)
        if name is not None and name not in TYPES:
            self.judge(node, name)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self.dotted(node)
        if name is None:
            self.generic_visit(node)
        elif name not in TYPES:
            self.judge(node, name)

    def visit_Call(self, node: ast.Call) -> None:
        if (name := self.dotted(node.func)) in TYPES:
            self.find(node, "chance", f"{name}()")
        if isinstance(node.func, ast.Name) and node.func.id not in self.origins:
            if node.func.id == "open" and _may_write(node, mode_at=1):
                self.find(node, "disk", "open() for writing")
            if node.func.id == "print":
                self.find(node, "print", "print()")
        if isinstance(node.func, ast.Attribute):
            method = node.func.attr
            if method in ("write_text", "write_bytes") or (method == "open" and _may_write(node, mode_at=0)):
                self.find(node, "disk", f".{method}() for writing")
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        broad = node.type is None or (
            isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
        )
        silent = all(isinstance(one, ast.Pass) or _is_ellipsis(one) for one in node.body)
        if node.type is None:
            self.find(node, "except", "bare except")
        elif broad and silent:
            self.find(node, "except", "a broad except that says nothing")
        self.generic_visit(node)


def _is_ellipsis(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ...


def _may_write(call: ast.Call, mode_at: int) -> bool:
    """Whether the mode, at that position or by name, is one for writing. What is no literal may be."""
    named = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    for mode in (*call.args[mode_at : mode_at + 1], *named):
        if not isinstance(mode, ast.Constant):
            return mode_at == 1  # the builtin; a method `open` may be anybody's
        return isinstance(mode.value, str) and set(mode.value) <= set("rwaxbt+") and bool(set(mode.value) & set("wax+"))
    return False


def findings_in(source: str, path: str) -> list[Finding]:
    reader = Reader(path)
    reader.visit(ast.parse(source))
    if path.startswith("p2pnode/api/"):
        reader.findings = [finding for finding in reader.findings if finding.rule != "print"]
    return reader.findings


def all_findings() -> Iterator[Finding]:
    for path in SOURCES:
        yield from findings_in(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())


def test_nothing_goes_round_the_env_and_nothing_fails_in_silence() -> None:
    broken = [str(finding) for finding in all_findings() if finding.allowed_by() is None]
    assert broken == []


def test_every_exception_to_the_rules_is_still_needed() -> None:
    used = {finding.allowed_by() for finding in all_findings()}
    assert set(ALLOWED) - used == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_says_what_it_is_for_and_keeps_to_one_thing(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert ast.get_docstring(tree), "no docstring"
    assert source.count("\n") <= LINES_MAX
    assert not {"utils", "util", "helpers", "helper", "misc", "common"} & set(path.with_suffix("").parts)
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES_MAX, node.name


def used(*, beside: set[str]) -> set[str]:
    """Every attribute that p2pnode reads and every name that it calls, but for those files."""
    found: set[str] = set()
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("p2pnode/") and name not in beside:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    found.add(node.attr)
                if isinstance(node, ast.Call):
                    found.add(ast.unparse(node.func).rpartition(".")[2] + "()")
    return found


def test_no_setting_is_taken_that_nobody_reads() -> None:
    read = used(beside={"p2pnode/api/config.py", "p2pnode/core/settings.py"})
    assert {field.name for field in fields(Settings)} - read == set()


@pytest.mark.parametrize("spec", [METADATA, SHARD_TRANSFER, QUERY, HEALTH], ids=lambda spec: spec.name)
def test_no_verb_is_answered_that_nobody_asks(spec: ProtocolSpec) -> None:
    asked = used(beside=set())
    assert {f"{verb.request.__name__}()" for verb in spec.verbs} - asked == set()


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("import time\ntime.time()", "clock"),
        ("import time as t\nf = t.monotonic", "clock"),
        ("from time import sleep as rest\nrest(1)", "clock"),
        ("from datetime import datetime\ndatetime.now()", "clock"),
        ("import random\nrandom.choice([1])", "chance"),
        ("import random\nr = random.Random(4)", "chance"),
        ("from os import urandom\nurandom(4)", "chance"),
        ("import secrets\nsecrets.token_hex()", "chance"),
        ("import uuid\nuuid.uuid4()", "chance"),
        ("import threading\nthreading.Lock()", "threads"),
        ("import trio\nasync def f(): await trio.to_thread.run_sync(f)", "threads"),
        ("from trio import to_thread\nto_thread.run_sync", "threads"),
        ("import asyncio\nasyncio.run(1)", "loop"),
        ("open('x', 'wb')", "disk"),
        ("open('x', mode='a')", "disk"),
        ("def f(mode): return open('x', mode)", "disk"),
        ("from pathlib import Path\nPath('x').open('r+')", "disk"),
        ("p.write_text('x')", "disk"),
        ("print('x')", "print"),
        ("try: f()\nexcept: g()", "except"),
        ("try: f()\nexcept Exception: pass", "except"),
        ("try: f()\nexcept BaseException: ...", "except"),
    ],
)
def test_the_lint_sees(source: str, rule: str) -> None:
    assert [finding.rule for finding in findings_in(source, "p2pnode/net/x.py")] == [rule]


@pytest.mark.parametrize(
    "source",
    [
        "import random\ndef f(rng: random.Random) -> float: return rng.random()",
        "import datetime\ndef f(x: datetime.timedelta, y: datetime.time): ...",
        "import uuid\ndef f(x): return isinstance(x, uuid.UUID)",
        "open('x', 'rb')",
        "def f(env, path): return env.disk.open(path, 'wb')",
        "try: f()\nexcept Exception as error: log(error)",
        "try: f()\nexcept ValueError: pass",
    ],
)
def test_the_lint_lets_pass(source: str) -> None:
    assert findings_in(source, "p2pnode/net/x.py") == []


IMPORT_ALL = """
import importlib, pkgutil, sys
for name in {packages!r}:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
print(*sorted({{name.split(".")[0] for name in sys.modules}} & {{"trio", "libp2p", "asyncio", "anyio", "duckdb"}}))
"""


def test_words_and_decisions_load_neither_a_loop_nor_libp2p() -> None:
    script = IMPORT_ALL.format(packages=["protocols", "bootstrap", "p2pnode.core"])
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == []
