"""Each parser's branches are taken, nearly all of them: by accidents (`tests.fuzz`) and by its own tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Share of the branches of each module (and of its lines, where it has no branches).
COVERED_MIN = 0.95
CASES = 2000

#: Module -> the tests of its own.
PARSERS = {
    "bootstrap/address.py": ["tests/bootstrap/test_address.py"],
    "bootstrap/identity.py": ["tests/bootstrap/test_identity.py"],
    "p2pnode/api/config.py": ["tests/p2pnode/api/test_config.py"],
    "p2pnode/core/checkpoint.py": ["tests/p2pnode/core/test_checkpoint.py"],
    "p2pnode/core/cid.py": ["tests/p2pnode/core/test_cid.py"],
    "p2pnode/core/conduct.py": ["tests/p2pnode/core/test_conduct.py"],
    "p2pnode/core/event.py": ["tests/p2pnode/core/test_event.py"],
    "p2pnode/core/holdings.py": ["tests/p2pnode/core/test_holdings.py"],
    "p2pnode/core/receipts.py": ["tests/p2pnode/core/test_receipts.py", "tests/p2pnode/core/test_committing.py"],
    "p2pnode/core/reconcile.py": ["tests/p2pnode/core/test_reconcile.py"],
    "p2pnode/core/records.py": ["tests/p2pnode/core/test_records.py"],
    "p2pnode/core/tickets.py": ["tests/p2pnode/core/test_tickets.py"],
    "p2pnode/core/unixfs.py": ["tests/p2pnode/core/test_unixfs.py"],
    "p2pnode/net/blame.py": [
        "tests/p2pnode/services/test_bad_input.py::test_who_repeats_what_is_known_for_ever_is_throttled"
    ],
    "p2pnode/net/exchange.py": ["tests/p2pnode/net/test_exchange.py", "tests/p2pnode/net/test_ill_behaved.py"],
    "p2pnode/net/guard.py": ["tests/p2pnode/net/test_exchange.py", "tests/p2pnode/net/test_ill_behaved.py"],
    "p2pnode/query/frames.py": ["tests/p2pnode/query/test_frames.py"],
    "p2pnode/storage/identity_file.py": ["tests/p2pnode/storage/test_identity_file.py"],
    "p2pnode/storage/listen_port.py": [],
    "protocols/codec.py": ["tests/protocols/test_codec.py"],
    "protocols/errors.py": [],
    "protocols/frame.py": ["tests/protocols/test_frame.py"],
    "protocols/machine.py": ["tests/protocols/test_machine.py"],
    "protocols/message.py": ["tests/protocols/test_messages.py"],
    "protocols/table.py": ["tests/protocols/test_machine.py"],
}


def measured(tmp_path: Path, *command: str) -> None:
    environment = {**os.environ, "COVERAGE_FILE": str(tmp_path / "coverage")}
    run = ["run", "--append", "--branch", f"--include={','.join(PARSERS)}", "-m", *command]
    done = subprocess.run(
        [sys.executable, "-m", "coverage", *run], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.timeout(300)
def test_every_parser_is_covered(tmp_path: Path):
    measured(tmp_path, "tests.fuzz", "--cases", str(CASES))
    own = list(dict.fromkeys(test for tests in PARSERS.values() for test in tests))
    measured(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", *own)
    report = tmp_path / "coverage.json"
    subprocess.run(
        [sys.executable, "-m", "coverage", "json", "-q", "-o", str(report)],
        cwd=ROOT,
        env={**os.environ, "COVERAGE_FILE": str(tmp_path / "coverage")},
        check=True,
    )
    files = json.loads(report.read_text())["files"]
    assert set(files) == set(PARSERS)
    short: list[str] = []
    for module, found in sorted(files.items()):
        summary = found["summary"]
        share = summary["covered_branches"] / summary["num_branches"] if summary["num_branches"] else 1.0
        share = min(share, summary["percent_covered"] / 100)
        misses = f"{module}: {share:.1%}, lines {found['missing_lines']}, branches {found['missing_branches']}"
        print(misses)
        if share < COVERED_MIN:
            short.append(misses)
    assert not short, "\n".join(short)
