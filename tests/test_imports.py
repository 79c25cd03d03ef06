"""What is light stays light: reading, scoring and ``--help`` never load the machinery of a build."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "datasets", "sklearn", "matplotlib", "ray", "lm_eval")
READERS = ("zarr", "pyarrow", "fsspec", "huggingface_hub", "pandas")
"""What opening a local store does not need."""
HELP = """
import sys
from wif_store.cli.app import main
sys.argv = ["wif-store", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def modules_after(code: str, names: tuple[str, ...] = HEAVY, path: Path = ROOT) -> list[str]:
    """Which of these modules a fresh interpreter that imports from `path` has loaded after `code`."""
    report = f"\nimport sys\nprint('loaded:', *(name for name in {names} if name in sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code + report],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(path)},
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1].split()[1:]


ROOMS = {
    "top": ("wif_store", "wif_store.errors", "wif_store.progress", "wif_store.records", "wif_store.api"),
    "format": tuple(
        f"wif_store.format.{name}"
        for name in ("schema", "layout", "metadata", "manifest", "chunks", "table", "layers")
    ),
    "storage": tuple(f"wif_store.storage.{name}" for name in ("base", "local", "remote", "hub_client")),
    "tasks": tuple(
        f"wif_store.tasks{name}"
        for name in ("", ".rows", ".own_rows", ".lookup", ".harness", ".harness_registry")
    ),
    "store": tuple(f"wif_store.store.{name}" for name in ("reader", "residuals", "files", "verify", "audit")),
    "scorer": ("wif_store.scorer.probes", "wif_store.scorer.run", "wif_store.scorer.report"),
    "hub": ("wif_store.hub.push", "wif_store.hub.pull", "wif_store.hub.card", "wif_store.hub.parquet"),
    "builder": tuple(
        f"wif_store.builder.{name}" for name in ("pipeline", "writer", "workers", "workers_ray", "sweep")
    ),
    "cli": ("wif_store.cli.app", "wif_store.cli.build", "wif_store.cli.store", "wif_store.cli.hub"),
}


@pytest.mark.parametrize("room", ROOMS)
def test_importing_a_room_is_light(room: str) -> None:
    assert modules_after(f"import {', '.join(ROOMS[room])}") == []


@pytest.mark.parametrize("room", ["format", "storage", "store"])
def test_importing_what_reads_loads_no_other_reader(room: str) -> None:
    assert modules_after(f"import {', '.join(ROOMS[room])}", READERS) == []


def test_help_is_light() -> None:
    assert modules_after(HELP) == []


READ = """
from wif_store import open_store
store = open_store({path!r})
store.read_final_token(0, "test")
store.read_sequences(1, "train")
store.success()
store.offsets()
"""


def test_reading_residuals_is_light(finished_store: Path) -> None:
    """zarr is for ``zarr_group`` alone, and pyarrow for the table of examples."""
    code = READ.format(path=str(finished_store))
    assert modules_after(code, (*HEAVY, *READERS)) == []
    assert modules_after(f"{code}\nstore.examples()", (*HEAVY, "zarr")) == []
    assert modules_after(f"{code}\nstore.zarr_group()", (*HEAVY, "zarr")) == ["zarr"]


def test_the_public_names_are_light() -> None:
    code = "from wif_store import ActivationStore, build, evaluate, open_store, pull, push, score"
    assert modules_after(code) == []


@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_import_would_be_seen(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").touch()
    assert modules_after(f"import {name}", HEAVY, tmp_path) == [name]
