"""Making a changed store fit its own checksums again, as whoever tampers with a store could."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from wif_store.format.chunks import CHECKSUM, index_bytes, read_index
from wif_store.format.manifest import render_manifest
from wif_store.format.schema import FINAL_TOKEN, MANIFEST, SEQUENCE
from wif_store.storage import describe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def fit_manifest(folder: Path, sections: Mapping[str, Any]) -> None:
    """Write a manifest of these sections that names every file as it is now, and every chunk of residuals."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        name = path.relative_to(folder).as_posix()
        files[name] = describe(path)
        array = name.partition("/c/")[0]
        if array.endswith((f"/{FINAL_TOKEN}", f"/{SEQUENCE}")) and array != name:
            files[name]["chunk_crc32c"] = chunk_checksums(path, folder / array / "zarr.json")
    (folder / MANIFEST).write_bytes(render_manifest({**sections, "files": files}))


def chunk_checksums(shard: Path, metadata: Path) -> str:
    """The CRC32C of each chunk of a shard, as the manifest has them."""
    array = json.loads(metadata.read_bytes())
    outer = array["chunk_grid"]["configuration"]["chunk_shape"]
    inner = array["codecs"][0]["configuration"]["chunk_shape"]
    count = math.prod(a // b for a, b in zip(outer, inner, strict=True))
    content = shard.read_bytes()
    end = len(content) - index_bytes(count)
    places = read_index(content[end:], count, end)
    return "".join(
        content[at + n - CHECKSUM : at + n].hex() if n > 0 else "0" * 8 for at, n in places.tolist()
    )
