"""What the tests of builds and stores share: one task, its settings, small shards, digests of files."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.support import tiny
from wif_store.builder import scan, writer
from wif_store.builder.pipeline import Settings
from wif_store.format import layout
from wif_store.format.schema import SPLITS
from wif_store.storage import storage_of
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import pytest

    from wif_store.store.reader import ActivationStore
    from wif_store.tasks.base import Request
    from wif_store.tasks.rows import Source

TASK = get_task("winogrande")
PROTOCOL = TASK.protocol("aligned")
SMALL: dict[Any, dict[str, int]] = {
    layout: {"PLANE": 32, "SEQUENCE_PLANE": 128, "SHARD_BYTES": 8192, "SHARD_EXAMPLES": 8},
    writer: {"SHARD_EXAMPLES": 8},
    scan: {"LEAST_BLOCK": 4, "MOST_BLOCK": 8},
}
"""Blocks and shards so small that a build of a few rows has many; for a width of 16."""


def settings(**changes: Any) -> Settings:
    """As many pairs as there are, unless told otherwise."""
    return replace(Settings(TASK, PROTOCOL, per_class=None), **changes)


def source_of(folder: Path, count: int = 60) -> Source:
    """So many made-up rows, in a file of this folder."""
    return load_source(TASK, str(tiny.write_rows(folder / "rows.jsonl", tiny.rows(count))))


def requests_of(source: Source) -> dict[str, Request]:
    """What the model is asked about each row, by id."""
    return {c.id: TASK.request(c, PROTOCOL) for c in source.candidates}


def small_shards(patch: pytest.MonkeyPatch) -> None:
    """Cut stores into many small files, and scans into many small blocks."""
    for module, values in SMALL.items():
        for name, value in values.items():
            patch.setattr(module, name, value)


def contents(store: Path) -> dict[str, str]:
    """Every file of a store by its SHA-256."""
    files = (p for p in store.rglob("*") if p.is_file())
    return {p.relative_to(store).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def objects(url: str) -> dict[str, str]:
    """Every object below a URL by its SHA-256."""
    storage = storage_of(url)
    return {name: hashlib.sha256(storage.read(name)).hexdigest() for name in storage.sizes()}


def ids_of(store: ActivationStore) -> dict[str, list[str]]:
    """The ids of each split, in the store's order."""
    return {split: store.column("id", split).tolist() for split in SPLITS}


def nothing_partial(folder: Path, besides: Iterable[str] = ()) -> Sequence[str]:
    """What a finished build should not have left in the folder around it."""
    allowed = {*besides, "rows.jsonl"}
    found = (p.name for p in folder.iterdir() if not p.name.endswith((".zarr", ".log.jsonl")))
    return sorted(name for name in found if name not in allowed)
