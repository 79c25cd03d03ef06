"""A store's Zarr metadata, held against the schema and the manifest before anything is read by it.

Whoever wrote the store wrote its metadata: shapes may be absurd, a codec may be one that runs code, and a
checksum may have been left out. What passes here can be read within the memory that its files justify.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.format.bounded import MOST_COMPRESSED, SLACK
from wif_store.format.schema import ARRAYS, MANIFEST, SEQUENCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wif_store.format.schema import ArraySpec, Manifest

METADATA: Final = "zarr.json"
METADATA_BYTES: Final = 4 * 2**20
CODECS: Final = frozenset({"bytes", "vlen-utf8", "transpose", "zstd", "blosc", "crc32c", "sharding_indexed"})
"""None of them runs code; others, such as pickles, could."""
INDEX_ENTRY: Final = 16
FIELDS: Final = {"shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs"}
OTHER_FIELDS: Final = {"attributes", "dimension_names", "zarr_format", "node_type", "storage_transformers"}


def parse_metadata(content: bytes, manifest: Manifest) -> dict[str, Any]:
    """The group's consolidated metadata, checked.

    Raises:
        ValueError: If it is not what the manifest names, or describes another store than the schema does.
        KeyError: If a part is missing.
        TypeError: If a part is of another kind.
        RecursionError: If it is nested too deep.
    """
    if hashlib.sha256(content).hexdigest() != manifest.files[METADATA]["sha256"]:
        msg = f"{METADATA} does not have its SHA-256"
        raise ValueError(msg)
    group: dict[str, Any] = json.loads(content)
    arrays = group["consolidated_metadata"]["metadata"]
    _expect("the node", (group["zarr_format"], group["node_type"]), (3, "group"))
    # A store that has sequences of no layer need not have the array of them.
    optional = {SEQUENCE} if arrays["sequence_layer"]["shape"] == [0] else set()
    if wrong := sorted((ARRAYS.keys() ^ arrays.keys()) - (optional - arrays.keys())):
        msg = f"array {wrong[0]!r:.40} is missing or not of this format"
        raise ValueError(msg)
    n = sum(split["examples"] for split in manifest.splits.values())
    sizes = {"example": n, "boundary": n + 1, "d_model": manifest.model["d_model"]}
    for name, spec in ARRAYS.items():
        if name in arrays:
            _check_array(arrays[name], spec, sizes, manifest)
    # A file that no array reads would be one that nothing checks.
    read = {METADATA, *(f"{name}/{METADATA}" for name in arrays), *_chunk_files(arrays)}
    if strangers := sorted(set(manifest.files) ^ read):
        msg = f"{strangers[0]} is in only one of {MANIFEST} and {METADATA}"
        raise ValueError(msg)
    return group


def check_columns(columns: Mapping[str, np.ndarray]) -> None:
    """Refuse values that would be used as an index without being one.

    Raises:
        ValueError: Naming the array.
    """
    width, n_choices = columns["choices"].shape[1], columns["n_choices"]
    for name, low, high in (
        ("split", 0, 3),
        ("n_choices", 2, width + 1),
        ("gold", 0, n_choices),
        ("prediction", 0, n_choices),
        ("success", 0, 2),
    ):
        if not np.all((columns[name] >= low) & (columns[name] < high)):
            msg = f"{name} is out of range"
            raise ValueError(msg)


def _check_array(array: dict[str, Any], spec: ArraySpec, sizes: dict[str, int], manifest: Manifest) -> None:
    name = spec.name
    if not FIELDS <= array.keys() <= FIELDS | OTHER_FIELDS or array.get("storage_transformers"):
        msg = f"{name}: its fields are not those of an array"
        raise ValueError(msg)
    fill = {"string": "", "float32": "NaN", "float64": "NaN"}.get(spec.dtype, -1)
    found = (array["node_type"], array["data_type"], array["dimension_names"], array["fill_value"])
    _expect(name, found, ("array", spec.dtype, list(spec.dims), fill))
    _expect(name, array["chunk_key_encoding"], {"name": "default", "configuration": {"separator": "/"}})
    _expect(f"{name}: grid", array["chunk_grid"]["name"], "regular")
    shape = _lengths(array["shape"], spec, 0)
    for dim, length in zip(spec.dims, shape, strict=True):
        # The first array that has a dimension fixes it for the others.
        _expect(f"{name}: {dim}", length, sizes.setdefault(dim, length))
    chunks = _lengths(array["chunk_grid"]["configuration"]["chunk_shape"], spec, 1)
    itemsize = 16 if spec.dtype == "string" else np.dtype(spec.dtype).itemsize
    stored = [e["size"] for f, e in manifest.files.items() if f.startswith(f"{name}/c/")]
    held, chunk = itemsize * math.prod(shape), itemsize * math.prod(chunks)
    if held > SLACK + MOST_COMPRESSED * sum(stored) or (held and chunk > SLACK + 2 * held):
        msg = f"{name}: {sum(stored)} bytes of files cannot hold the shape {shape} in chunks of {chunks}"
        raise ValueError(msg)
    if math.prod(_grid(array)) != len(stored):
        msg = f"{name}: found {len(stored)} chunk files; expected {math.prod(_grid(array))}"
        raise ValueError(msg)
    _check_codecs(array["codecs"], name)
    if array["codecs"][0]["name"] == "sharding_indexed":
        inner = _lengths(array["codecs"][0]["configuration"]["chunk_shape"], spec, 1)
        entries = math.prod(c // i for c, i in zip(chunks, inner, strict=True))
        if any(c % i for c, i in zip(chunks, inner, strict=True)) or any(
            size < INDEX_ENTRY * entries for size in stored
        ):
            msg = f"{name}: chunks of {inner} do not fill shards of {chunks}"
            raise ValueError(msg)


def _check_codecs(codecs: Sequence[Mapping[str, Any]], name: str) -> None:
    """Known codecs only, and a checksum at the end of every chunk."""
    for codec in codecs:
        if codec["name"] not in CODECS:
            msg = f"{name}: codec {codec['name']!r:.40} is not one of: {', '.join(sorted(CODECS))}"
            raise ValueError(msg)
    names = [codec["name"] for codec in codecs]
    if "sharding_indexed" in names:
        _expect(f"{name}: codecs", names, ["sharding_indexed"])
        for part in ("codecs", "index_codecs"):
            _check_codecs(codecs[0]["configuration"][part], f"{name}: {part}")
    else:
        _expect(f"{name}: the last codec", names[-1:], ["crc32c"])


def _grid(array: Mapping[str, Any]) -> list[int]:
    """How many files an array has along each dimension."""
    chunks = array["chunk_grid"]["configuration"]["chunk_shape"]
    return [-(-length // chunk) for length, chunk in zip(array["shape"], chunks, strict=True)]


def _chunk_files(arrays: Mapping[str, Any]) -> set[str]:
    return {
        f"{name}/c/{'/'.join(map(str, place))}"
        for name in arrays
        for place in np.ndindex(*_grid(arrays[name]))
    }


def _lengths(value: Any, spec: ArraySpec, least: int) -> tuple[int, ...]:
    if len(value) != len(spec.dims) or not all(type(n) is int and least <= n < 2**48 for n in value):
        msg = f"{spec.name}: {value!r:.60} are not {len(spec.dims)} lengths"
        raise ValueError(msg)
    return tuple(value)


def _expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        msg = f"{what}: found {found!r:.100}; expected {expected!r:.100}"
        raise ValueError(msg)
