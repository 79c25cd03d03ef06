"""Some layers of a store as a smaller store: the same shards, under metadata that names what was left out."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from typing import TYPE_CHECKING, Any, Final

import zarr

from wif_store.errors import PublishError
from wif_store.format.manifest import LEFT_OUT, parse_manifest, render_manifest
from wif_store.storage import LocalStorage, describe, write_file
from wif_store.format.schema import FINAL_TOKEN, MANIFEST, SEQUENCE
from wif_store.store.reader import store_of
from wif_store.format.validate import METADATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

AXES: Final = {FINAL_TOKEN: "layer", SEQUENCE: "sequence_layer"}
"""Arrays of residuals, and the array that names the layer of each of their rows."""


def is_residual(name: str) -> bool:
    """Whether a file of a store holds residuals."""
    return name.startswith(tuple(f"{array}/c/" for array in AXES))


def files_of_layers(folder: Path, files: Iterable[str], layers: Sequence[int], name: str) -> list[str]:
    """The files that a store of these layers needs, of a store whose small files are in ``folder``.

    Raises:
        PublishError: If it has no residuals of one of the layers; ``name`` names it.
    """
    have = _layers(folder)
    if missing := sorted(set(layers) - set(have[FINAL_TOKEN]) - set(have[SEQUENCE])):
        found = ", ".join(map(str, have[FINAL_TOKEN]))
        msg = f"{name} has no layer {missing[0]}; it has: {found}"
        raise PublishError(msg)
    kept = tuple(
        f"{array}/c/{index}/" for array in AXES for index, layer in enumerate(have[array]) if layer in layers
    )
    return [file for file in files if not is_residual(file) or file.startswith(kept)]


def keep_layers(folder: Path, out: Path, layers: Sequence[int]) -> Path:
    """Make a store of some layers at ``out``; shards are moved there as they are.

    Args:
        folder: The store, of which only the files of ``files_of_layers`` need to be there.
        out: Where the smaller store goes; what a killed call left there is replaced.
        layers: The layers to keep.

    Returns:
        ``out``.
    """
    whole = (folder / MANIFEST).read_bytes()
    manifest: dict[str, Any] = json.loads(whole)
    have = _layers(folder)
    shutil.rmtree(out, ignore_errors=True)
    group = zarr.create_group(out, zarr_format=3)
    group.attrs.put(dict(zarr.open_group(folder, mode="r").attrs))
    for array in (p.name for p in sorted(folder.iterdir()) if p.is_dir()):
        if array in AXES:
            _keep_rows(folder / array, out / array, [i for i, n in enumerate(have[array]) if n in layers])
        else:
            shutil.copytree(folder / array, out / array)
    for array, axis in AXES.items():
        kept = [n for n in have[array] if n in layers]
        _resize(out / axis / "zarr.json", len(kept), chunk=max(1, len(kept)))
        shutil.rmtree(out / axis / "c", ignore_errors=True)
        if kept:
            zarr.open_array(out / axis, mode="r+")[...] = kept
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(group.store)
    names = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    manifest["files"] = {name: describe(out / name) for name in names}
    manifest[LEFT_OUT] = {
        "manifest_sha256": hashlib.sha256(whole).hexdigest(),
        "kept": sorted(set(layers)),
        **{axis: [n for n in have[array] if n not in layers] for array, axis in AXES.items()},
    }
    write_file(out / MANIFEST, render_manifest(manifest))
    return out


def is_part_of(manifest: bytes, whole: bytes, layers: Sequence[int]) -> bool:
    """Whether a store's manifest is that of exactly these layers of a whole one."""
    left: Mapping[str, Any] | None = json.loads(manifest).get(LEFT_OUT)
    if left is None or left["manifest_sha256"] != hashlib.sha256(whole).hexdigest():
        return False
    return bool(left["kept"] == sorted(set(layers)))


def _layers(folder: Path) -> dict[str, list[int]]:
    manifest = parse_manifest((folder / MANIFEST).read_bytes(), str(folder))
    metadata = (folder / METADATA).read_bytes()
    store = store_of(str(folder), manifest, metadata, LocalStorage(folder))
    return {FINAL_TOKEN: list(store.layers), SEQUENCE: list(store.sequence_layers)}


def _keep_rows(array: Path, out: Path, rows: Sequence[int]) -> None:
    """Move the shards of some rows of the first axis, which become rows 0, 1, ..."""
    out.mkdir()
    shutil.copy(array / "zarr.json", out)
    _resize(out / "zarr.json", len(rows))
    for new, old in enumerate(rows):
        if (array / "c" / str(old)).is_dir():
            (out / "c").mkdir(exist_ok=True)
            (array / "c" / str(old)).rename(out / "c" / str(new))


def _resize(path: Path, length: int, chunk: int | None = None) -> None:
    """Rewrite the first dimension of an array's metadata."""
    metadata = json.loads(path.read_bytes())
    metadata["shape"][0] = length
    if chunk is not None:
        metadata["chunk_grid"]["configuration"]["chunk_shape"][0] = chunk
    path.write_text(json.dumps(metadata, indent=2))
