"""The Zarr metadata of a store, derived from its manifest.

They are plain JSON of the Zarr version 3 specification, and nothing in them is free: a writer writes exactly
these bytes, and a reader compares what it finds with them, so that a stranger's metadata is never obeyed.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.format.chunks import LEVEL
from wif_store.format.layout import Layout, coordinate_layouts, split_layouts
from wif_store.format.schema import (
    ARRAYS,
    COORDINATES,
    FORMAT,
    FORMAT_VERSION,
    METADATA,
    SPLITS,
    TABLE,
    ArraySpec,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wif_store.format.schema import Manifest

CRC32C: Final = {"name": "crc32c"}


def layouts_of(manifest: Manifest) -> dict[str, Layout]:
    """The plan of every array of a store, by its path, such as ``train/final_token``."""
    plans: dict[str, Layout] = dict(coordinate_layouts(manifest.layers))
    for split in SPLITS:
        counts = manifest.splits[split]
        of_split = split_layouts(
            manifest.layers,
            manifest.sites,
            manifest.model["d_model"],
            counts["examples"],
            counts["tokens"],
        )
        plans |= {f"{split}/{name}": layout for name, layout in of_split.items()}
    return plans


def metadata_files(manifest: Manifest) -> dict[str, bytes]:
    """Every ``zarr.json`` of a store, by its path; that of the root holds all others too."""
    nodes: dict[str, dict[str, Any]] = {split: _group({}) for split in SPLITS}
    for path, layout in layouts_of(manifest).items():
        name = path.rpartition("/")[2]
        nodes[path] = array_metadata((COORDINATES | ARRAYS)[name], layout)
    nodes = dict(sorted(nodes.items()))
    root = _group(_attributes(manifest)) | {
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": nodes}
    }
    files = {METADATA: root} | {f"{path}/{METADATA}": node for path, node in nodes.items()}
    return {path: json.dumps(node, indent=1).encode() for path, node in files.items()}


def data_files(manifest: Manifest) -> set[str]:
    """The paths of all files of a store that hold data: chunks, shards and tables."""
    paths = {f"{split}/{TABLE}" for split in SPLITS}
    for path, layout in layouts_of(manifest).items():
        paths |= {f"{path}/{file}" for file in layout.files}
    return paths


def array_metadata(spec: ArraySpec, layout: Layout) -> dict[str, Any]:
    """The metadata of one array."""
    size = np.dtype(spec.dtype).itemsize
    codecs: list[dict[str, Any]] = [
        {"name": "bytes", "configuration": {"endian": "little"}} if size > 1 else {"name": "bytes"},
        {
            "name": "blosc",
            "configuration": {
                "typesize": size,
                "cname": "zstd",
                "clevel": LEVEL,
                "shuffle": "shuffle" if size > 1 else "noshuffle",
                "blocksize": size * math.prod(layout.chunk),
            },
        },
        CRC32C,
    ]
    if layout.transposed:
        codecs.insert(0, {"name": "transpose", "configuration": {"order": [0, 2, 1]}})
    if layout.shard:
        codecs = [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": list(layout.chunk),
                    "codecs": codecs,
                    "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, CRC32C],
                    "index_location": "end",
                },
            }
        ]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(layout.shape),
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(layout.file)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        # What is missing must never read as an ordinary number.
        "fill_value": "NaN" if spec.dtype.startswith("float") else -1,
        "codecs": codecs,
        "attributes": {"description": spec.description},
        "dimension_names": list(spec.dims),
        "storage_transformers": [],
    }


def _attributes(manifest: Manifest) -> Mapping[str, Any]:
    """What the root group says of itself to whoever opens it without us."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "task": manifest.task,
        "outcome": manifest.outcome,
        "model": manifest.model["id"],
        "protocol": manifest.protocol["name"],
        "sites": dict(manifest.sites),
    }


def _group(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
