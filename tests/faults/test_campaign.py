"""A little of every row of the fault campaign: nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.__main__ import ROWS

ROOT = Path(__file__).parents[2]
QUICK = ("kills", "shrink", "files", "flips", "company")
"""Rows whose short form takes seconds."""


@pytest.mark.parametrize(
    "row",
    [
        *QUICK,
        *(pytest.param(row, marks=pytest.mark.slow) for row in ROWS if row not in QUICK),
    ],
)
def test_a_row_loses_nothing(row, tmp_path):
    table = tmp_path / "table.json"
    command = [sys.executable, "-m", "tests.faults", row, "--short", "--json", str(table)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(table.read_text())["rows"]
    assert sum(one["trials"] for one in found) > 0
    assert [one["failures"] for one in found if one["lost"]] == []
