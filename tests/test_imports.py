"""What is light stays light: reading, scoring and ``--help`` never load the machinery of a build."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "datasets", "sklearn", "matplotlib", "ray")
REPORT = f"\nimport sys\nprint('loaded:', *(name for name in {HEAVY} if name in sys.modules))"
HELP = """
import sys
from wif_store.cli.app import main
sys.argv = ["wif-store", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def heavy_modules_after(code: str, path: Path = ROOT) -> list[str]:
    """Run `code` in a fresh interpreter that imports from `path`; return the heavy modules it loaded."""
    run = subprocess.run(
        [sys.executable, "-c", code + REPORT],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(path)},
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1].split()[1:]


ROOMS = (
    "wif_store",
    "wif_store.errors",
    "wif_store.format.schema",
    "wif_store.format.layout",
    "wif_store.tasks",
    "wif_store.store.reader",
    "wif_store.builder.writer",
    "wif_store.scorer.probes",
    "wif_store.scorer.run",
    "wif_store.hub.push",
    "wif_store.hub.card",
    "wif_store.hub.parquet",
    "wif_store.builder.pipeline",
    "wif_store.builder.workers_ray",
    "wif_store.builder.sweep",
    "wif_store.cli.app",
)


@pytest.mark.parametrize("room", ROOMS)
def test_importing_a_room_is_light(room: str) -> None:
    assert heavy_modules_after(f"import {room}") == []


def test_help_is_light() -> None:
    assert heavy_modules_after(HELP) == []


def test_the_public_reader_is_light() -> None:
    assert heavy_modules_after("from wif_store import ActivationStore, open_store") == []


@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_import_would_be_seen(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").touch()
    assert heavy_modules_after(f"import {name}", tmp_path) == [name]
