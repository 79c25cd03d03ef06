"""Some layers of a published store as a smaller store: the same chunks, read as ranges of the shards.

A shard holds all layers of a range of rows, and the chunks of a layer stand end to end in it. So the chunks
of the wanted layers are fetched, checked, and written into shards of their own; nothing is decoded.
"""

from __future__ import annotations

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from wif_store.errors import DamageError
from wif_store.format.chunks import CHECKSUM, ChunkError, crc32c, encode, index_bytes, read_index, shard_file
from wif_store.format.manifest import LEFT_OUT, render_manifest
from wif_store.format.metadata import data_files, layouts_of, metadata_files
from wif_store.format.schema import COORDINATES, FINAL_TOKEN, MANIFEST, SEQUENCE
from wif_store.storage import LocalStorage, describe, write_described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from wif_store.format.layout import Layout
    from wif_store.format.schema import Manifest
    from wif_store.storage import Entry

SPAN: Final = 32 * 2**20
"""Bytes that one request asks for, at most, unless a chunk is larger."""
THREADS: Final = 4
AXES: Final = {"layer": FINAL_TOKEN, "sequence_layer": SEQUENCE}
"""The array that names the layers of each array of residuals."""


class Chunk(NamedTuple):
    """One chunk of a published store: the shard that has it, and its number there."""

    file: str
    number: int


@dataclass(slots=True)
class LayerFetch:
    """Makes a store of some layers of a published one: ``open`` it, get the ``small_files``, ``write``.

    Attributes:
        name: What errors call the published store.
        content: The bytes of its manifest.
        manifest: The same, parsed and checked.
        layers: The 0-based decoder layers to keep, of final tokens and of sequences.
        read: ``(file, start, stop)`` -> the bytes of that range of a file of the published store.
        fetched: Called with the bytes that were asked for and not fetched before.
    """

    name: str
    content: bytes
    manifest: Manifest
    layers: Sequence[int]
    read: Callable[[str, int, int], bytes]
    fetched: Callable[[int], None] = lambda size: None
    _indices: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def part(self) -> Manifest:
        """The manifest of the smaller store, but for its files."""
        kept = {
            array: [n for n in self.manifest.layers[array] if n in self.layers] for array in AXES.values()
        }
        return replace(self.manifest, layers=kept)

    def small_files(self) -> list[str]:
        """The files that both stores have: the tables and the small arrays of the splits."""
        made_here = tuple(f"{array}/c/" for array in (*COORDINATES, *self._arrays()))
        return sorted(file for file in data_files(self.part) if not file.startswith(made_here))

    def open(self) -> int:
        """Fetch the indices of the shards; how many bytes the chunks of the wanted layers have.

        Raises:
            DamageError: If an index is not what was written.
        """
        shards = self.shards()
        files = sorted({chunk.file for chunks in shards.values() for chunk in chunks if chunk})
        with ThreadPoolExecutor(THREADS) as pool:
            self._indices.update(zip(files, pool.map(self._index, files), strict=True))
        return sum(self._range(chunk)[1] for chunks in shards.values() for chunk in chunks if chunk)

    def write(self, folder: Path) -> None:
        """Write everything of the smaller store that is not among ``small_files``, the manifest last.

        Args:
            folder: Where the small files are already. A shard that is there and has the right chunks is kept.

        Raises:
            DamageError: If a chunk is not the one that the manifest names, fetched twice.
        """
        part, storage = self.part, LocalStorage(folder)
        files: dict[str, Entry] = {name: describe(folder / name) for name in self.small_files()}
        shards = self.shards()
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                entries = list(pool.map(lambda name: self._shard(storage, name, shards[name]), shards))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        files |= dict(zip(shards, entries, strict=True))
        contents = metadata_files(part)
        for axis, array in AXES.items():
            if part.layers[array]:
                values = np.array(part.layers[array], COORDINATES[axis].dtype)
                contents[f"{axis}/c/0"] = encode(values)
        files |= {name: write_described(storage, name, [content]) for name, content in contents.items()}
        sections: dict[str, Any] = json.loads(self.content)
        have = self.manifest.layers
        left = {array: [n for n in have[array] if n not in self.layers] for array in AXES.values()}
        sections |= {
            "layers": dict(part.layers),
            "files": files,
            LEFT_OUT: {
                "manifest_sha256": hashlib.sha256(self.content).hexdigest(),
                "kept": sorted(set(self.layers)),
                **left,
            },
        }
        storage.write(MANIFEST, [render_manifest(sections)])

    def shards(self) -> dict[str, list[Chunk | None]]:
        """For each shard of the smaller store, which chunk of the published one each of its chunks is."""
        found: dict[str, list[Chunk | None]] = {}
        published = layouts_of(self.manifest)
        for path, layout in self._arrays().items():
            array = path.rpartition("/")[2]
            have = self.manifest.layers[array]
            rows = [have.index(layer) for layer in self.part.layers[array]]
            for shard, file in enumerate(layout.files):
                found[f"{path}/{file}"] = list(_sources(path, layout, published[path], rows, shard))
        return found

    def _arrays(self) -> dict[str, Layout]:
        """The arrays of residuals of the smaller store."""
        return {
            path: layout
            for path, layout in layouts_of(self.part).items()
            if path.rpartition("/")[2] in AXES.values()
        }

    def _shard(self, storage: LocalStorage, name: str, chunks: Sequence[Chunk | None]) -> Entry:
        """Write one shard, unless it is there; what the manifest says of it."""
        expected = ["0" * 8 if chunk is None else self._checksum(chunk) for chunk in chunks]
        entry = _there(storage.folder / name, expected)
        if entry is None:
            entry = write_described(storage, name, shard_file(self._fetch(chunks), len(chunks)))
        else:
            self.fetched(sum(self._range(chunk)[1] for chunk in chunks if chunk))
        return {**entry, "chunk_crc32c": "".join(expected)}

    def _fetch(self, chunks: Sequence[Chunk | None]) -> Iterator[bytes | None]:
        """The bytes of chunks in their order. Those that stand end to end are fetched by one request."""
        run: list[Chunk] = []
        for chunk in chunks:
            if run and not (chunk and self._follows(run, chunk)):
                yield from self._read_run(run)
                run = []
            if chunk is None:
                yield None
            else:
                run.append(chunk)
        if run:
            yield from self._read_run(run)

    def _follows(self, run: Sequence[Chunk], chunk: Chunk) -> bool:
        """Whether a chunk stands behind those of a run, near enough for the same request."""
        offset, length = self._range(chunk)
        joined = chunk.file == run[-1].file and offset == sum(self._range(run[-1]))
        return joined and offset + length - self._range(run[0])[0] <= SPAN

    def _read_run(self, chunks: Sequence[Chunk]) -> list[bytes]:
        """Chunks that stand end to end in one file, each of them checked."""
        ranges = [self._range(chunk) for chunk in chunks]
        begin, end = ranges[0][0], sum(ranges[-1])
        for _ in range(2):
            content = self.read(chunks[0].file, begin, end)
            found = [content[offset - begin : offset - begin + length] for offset, length in ranges]
            if all(map(self._is_right, found, chunks)):
                self.fetched(len(content))
                return found
        msg = (
            f"{self.name}: a chunk of {chunks[0].file} is not the one that the manifest names, fetched "
            "twice: pull again later"
        )
        raise DamageError(msg)

    def _is_right(self, content: bytes, chunk: Chunk) -> bool:
        """Whether these bytes have their own checksum, and it is the one that the manifest names."""
        checksum = content[-CHECKSUM:]
        return crc32c(content[:-CHECKSUM]) == checksum and checksum.hex() == self._checksum(chunk)

    def _checksum(self, chunk: Chunk) -> str:
        """What the manifest says of a chunk: its CRC32C as 8 hexadecimal digits."""
        checksums = str(self.manifest.files[chunk.file].get("chunk_crc32c", ""))
        return checksums[8 * chunk.number : 8 * chunk.number + 8]

    def _range(self, chunk: Chunk) -> tuple[int, int]:
        """Offset and length of a chunk in its shard."""
        offset, length = self._indices[chunk.file][chunk.number].tolist()
        if offset < 0:
            msg = f"{self.name}: {chunk.file} lacks a chunk: ask its owner to push it again"
            raise DamageError(msg)
        return offset, length

    def _index(self, file: str) -> np.ndarray:
        """Fetch the index of a shard: int64 ``[chunks, 2]``, offset and length of each."""
        layout, size = layouts_of(self.manifest)[file.partition("/c/")[0]], self.manifest.files[file]["size"]
        count = math.prod(layout.chunks_per_shard)
        end = size - index_bytes(count)
        for last in (False, True):
            try:
                index = read_index(self.read(file, max(0, end), size), count, end)
                # Chunks that share their bytes would make a small file stand for any number of requests.
                if index[:, 1].clip(0).sum() <= end:
                    return index
                msg = "the index of a shard names more bytes than it has"
                raise ChunkError(msg)
            except ChunkError as error:
                if last:
                    msg = f"{self.name}: {file} is damaged ({error}, fetched twice): pull again later"
                    raise DamageError(msg) from None
        raise AssertionError


def is_part_of(manifest: bytes, published: bytes, layers: Sequence[int]) -> bool:
    """Whether a store's manifest is that of exactly these layers of a complete one."""
    left = json.loads(manifest).get(LEFT_OUT)
    if not isinstance(left, dict) or left.get("manifest_sha256") != hashlib.sha256(published).hexdigest():
        return False
    return bool(left.get("kept") == sorted(set(layers)))


def _sources(
    path: str, layout: Layout, published: Layout, rows: Sequence[int], shard: int
) -> Iterator[Chunk | None]:
    """Where each chunk of a shard comes from, in the shard's order; None for one beyond the array's end.

    A chunk has the same shape in both arrays; the rows of a shard depend on how many layers it holds.
    """
    down, published_down = layout.chunks_per_shard[1], published.chunks_per_shard[1]
    for layer, low in product(rows, range(down)):
        row = shard * down + low
        if row * layout.chunk[1] >= layout.shape[1]:
            yield None
        else:
            file, low_there = divmod(row, published_down)
            yield Chunk(f"{path}/c/0/{file}/0", layer * published_down + low_there)


def _there(path: Path, checksums: Sequence[str]) -> Entry | None:
    """What the manifest says of a shard that is there, if its chunks have these checksums."""
    try:
        with path.open("rb") as file:
            end = path.stat().st_size - index_bytes(len(checksums))
            file.seek(max(0, end))
            index = read_index(file.read(), len(checksums), end)
            for (offset, length), expected in zip(index.tolist(), checksums, strict=True):
                if offset < 0:
                    if int(expected, 16):
                        return None
                    continue
                file.seek(offset)
                chunk = file.read(length)
                if crc32c(chunk[:-CHECKSUM]) != chunk[-CHECKSUM:] or chunk[-CHECKSUM:].hex() != expected:
                    return None
    except (OSError, ValueError):
        return None
    return describe(path)
