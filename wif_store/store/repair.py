"""What a damaged store can give back: files that follow from others, byte for byte, and nothing else."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr

from wif_store.format.layout import final_token_layout
from wif_store.store.files import read_file
from wif_store.format.manifest import MANIFEST_BYTES, parse_manifest
from wif_store.storage import LocalStorage, describe, write_file
from wif_store.records import narrow
from wif_store.format.schema import ARRAYS, FINAL_TOKEN, MANIFEST, SEQUENCE, SPLITS
from wif_store.builder.shards import shard_of
from wif_store.store.reader import group_of
from wif_store.format.validate import METADATA, parse_metadata
from wif_store.builder.writer import group_attributes

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from wif_store.format.schema import Manifest

Columns = tuple[tuple[str, ...], "Callable[..., np.ndarray]"]
DERIVED: Final[Mapping[str, Columns]] = {
    "success": (("prediction", "gold"), lambda prediction, gold: prediction == gold),
    "prediction": (("choice_logprob",), lambda p: np.where(np.isnan(p), -np.inf, p).argmax(1)),
    "n_choices": (("choice_logprob",), lambda p: (~np.isnan(p)).sum(1)),
    "offsets": (("final_token_position",), lambda position: np.cumsum([0, *(position + 1)])),
    "final_token_position": (("offsets",), lambda offsets: np.diff(offsets) - 1),
}
"""Arrays that follow from others."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was rebuilt, and what cannot be."""

    rebuilt: list[str]
    lost: list[str]


def repair_store(path: str | os.PathLike[str]) -> Repaired:
    """Rebuild the damaged files of a local store that follow from whole ones.

    A file is replaced only by bytes that have the SHA-256 of the manifest, so that what comes of it is the
    store that was written or what was there before.

    Raises:
        StoreError: If there is no manifest that can be believed.
        DamageError: If the folder holds links.
    """
    folder = Path(path)
    place = LocalStorage(folder)
    manifest = parse_manifest(read_file(place, MANIFEST, MANIFEST_BYTES), str(folder))
    present = place.sizes()
    bad = {n for n, entry in manifest.files.items() if n not in present or describe(folder / n) != entry}
    rebuilt: list[str] = []
    while done := [name for name in sorted(bad) if _rebuild(folder, name, bad, manifest)]:
        rebuilt += done
        bad -= set(done)
    return Repaired(rebuilt, sorted(bad))


def _rebuild(folder: Path, name: str, bad: set[str], manifest: Manifest) -> bool:
    """Whether a file could be made again with its own SHA-256."""
    with TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as scratch:
        made = Path(scratch, name)
        try:
            _make(folder, Path(scratch), name, bad, manifest)
        except (KeyError, ValueError, TypeError, IndexError, RecursionError):
            return False  # what it would follow from is not a store of ours
        if not made.is_file() or describe(made) != manifest.files[name]:
            return False
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_file(folder / name, made.read_bytes())
        return True


def _make(folder: Path, scratch: Path, name: str, bad: set[str], manifest: Manifest) -> None:
    """Make a file in ``scratch`` if it follows from whole ones."""
    array, _, rest = name.partition("/")
    if name == METADATA:
        arrays = [file for file in manifest.files if file.endswith(f"/{METADATA}")]
        if not bad.intersection(arrays):
            _consolidate(folder, scratch, arrays, manifest)
    elif METADATA not in bad:
        # Nothing is read by metadata before they are known to be a store's.
        metadata = parse_metadata((folder / METADATA).read_bytes(), manifest)
        (scratch / array).mkdir()
        own = json.dumps(metadata["consolidated_metadata"]["metadata"][array], indent=2)
        (scratch / array / METADATA).write_text(own)
        if rest != METADATA:
            group = group_of(LocalStorage(folder).zarr_store(), metadata)
            if array == FINAL_TOKEN:
                _final_token(scratch / name, group, bad, manifest)
            else:
                _column(zarr.open_array(scratch / array, mode="r+"), group, array, bad, manifest)


def _consolidate(folder: Path, scratch: Path, arrays: Sequence[str], manifest: Manifest) -> None:
    """The group's metadata from those of its arrays."""
    group = zarr.create_group(scratch, zarr_format=3)
    header = {"task": manifest.task, "model": manifest.model, "protocol": manifest.protocol}
    group.attrs.put(group_attributes(header, manifest.splits))
    for file in arrays:
        (scratch / file).parent.mkdir()
        shutil.copy(folder / file, scratch / file)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(group.store)


def _column(target: Any, group: Any, array: str, bad: set[str], manifest: Manifest) -> None:
    """A per-example array from the others, or from the manifest."""
    if array == "split":
        target[...] = np.repeat(range(len(SPLITS)), [manifest.splits[s]["examples"] for s in SPLITS])
    elif array in DERIVED:
        inputs, derive = DERIVED[array]
        if not any(_holds(name, bad) for name in inputs):
            target[...] = derive(*(group[name][...] for name in inputs)).astype(ARRAYS[array].dtype)


def _final_token(made: Path, group: Any, bad: set[str], manifest: Manifest) -> None:
    """A layer's final tokens from its sequences, if it has them."""
    row, number = (int(part) for part in made.parts[-3:-1])
    if any(_holds(name, bad) for name in ("layer", "sequence_layer", "offsets")):
        return
    layer, among = group["layer"][row], group["sequence_layer"][...].tolist()
    if layer not in among or _holds(SEQUENCE, bad, f"{among.index(layer)}/"):
        return
    sequence, last = group[SEQUENCE], group["offsets"][1:] - 1
    # Row by row would decode each chunk many times; all at once could be larger than memory.
    step = sequence.chunks[1]
    starts = range(0, sequence.shape[1], step)
    parts = (last[(last >= at) & (last < at + step)] - at for at in starts)
    values = (sequence[among.index(layer), at : at + step] for at in starts)
    found = np.concatenate([v[p] for v, p in zip(values, parts, strict=True)])
    layout = final_token_layout(found.shape[1], len(found))
    rows = found[number * layout.outer[1] :][: layout.outer[1]]
    made.parent.mkdir(parents=True)
    made.write_bytes(shard_of(layout, narrow(rows, manifest.model["dtype"])))


def _holds(array: str, bad: set[str], below: str = "") -> bool:
    """Whether any of these files is one of an array's chunks."""
    return any(name.startswith(f"{array}/c/{below}") for name in bad)
