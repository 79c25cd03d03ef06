"""Changing values of a store as a stranger could: every checksum and the manifest fit what is there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from tests.support.tamper import fit_manifest
from wif_store.format.chunks import decode, encode
from wif_store.format.manifest import render_manifest
from wif_store.format.schema import ARRAYS, COORDINATES, MANIFEST, TABLE
from wif_store.format.table import render_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Change = Callable[[Any], Any]


def sections_of(folder: Path) -> dict[str, Any]:
    """The sections of a store's manifest, as they stand there."""
    return json.loads((folder / MANIFEST).read_bytes())


def sealed_again(folder: Path, sections: Mapping[str, Any] | None = None) -> Path:
    """Make the manifest name every file as it is now."""
    fit_manifest(folder, sections_of(folder) if sections is None else sections)
    return folder


def with_files(folder: Path, change: Change) -> None:
    """Change what the manifest says of files, and seal it."""
    sections = sections_of(folder)
    change(sections["files"])
    (folder / MANIFEST).write_bytes(render_manifest(sections))


def change_array(folder: Path, path: str, change: Change) -> Path:
    """Write other values into one of the small arrays; the store is sealed again."""
    file = folder / path / "c" / "0"
    shape = json.loads((folder / path / "zarr.json").read_bytes())["shape"]
    values = np.empty(shape, (COORDINATES | ARRAYS)[path.rpartition("/")[2]].dtype)
    decode(np.frombuffer(file.read_bytes(), np.uint8), values)
    file.write_bytes(encode(np.ascontiguousarray(change(values), values.dtype)))
    return sealed_again(folder)


def change_table(folder: Path, split: str, change: Change) -> Path:
    """Write other rows into the table of a split; the store is sealed again."""
    path = folder / split / TABLE
    path.write_bytes(render_table(change(pq.read_table(path).to_pylist()), sections_of(folder)["outcome"]))
    return sealed_again(folder)


def put(position: Any, value: Any) -> Change:
    """A change of one value."""

    def change(values: Any) -> Any:
        values[position] = value
        return values

    return change
