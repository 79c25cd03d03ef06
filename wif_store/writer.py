"""Journal -> store: the kept examples, ordered by split, as compressed Zarr shards and a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from wif_store.codecs import Layout, final_token_layout, sequence_layout
from wif_store.journal import Block, sync, write_file
from wif_store.manifest import render_manifest
from wif_store.records import widen
from wif_store.schema import ARRAYS, FINAL_TOKEN, FORMAT, FORMAT_VERSION, MANIFEST, SEQUENCE, SPLITS

if TYPE_CHECKING:
    from pathlib import Path

ShardDone = Callable[[int], None]
"""Called with the uncompressed bytes of each shard that is on disk."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One example of the store: where its residuals are journalled, and what is known of it."""

    block: Block
    row: int
    """Its row among the residuals of the block."""
    split: str
    values: Mapping[str, Any]
    """A value for every per-example array of the schema that the journal does not hold."""

    @property
    def tokens(self) -> slice:
        """Its tokens among those of the block."""
        return slice(int(self.block.offsets[self.row]), int(self.block.offsets[self.row + 1]))

    def __len__(self) -> int:
        """How many tokens it has."""
        return int(self.block.offsets[self.row + 1] - self.block.offsets[self.row])


class StoreWriter:
    """Writes one store into a folder that holds nothing else; what is there already is kept.

    Every shard is written once, made durable and then noted in ``shards.jsonl`` beside the folder, so
    that a writer that was killed repeats at most the shard it was writing.
    """

    def __init__(
        self, folder: Path, layers: Sequence[int], sequence_layers: Sequence[int], d_model: int
    ) -> None:
        self.folder = folder
        self.layers, self.sequence_layers, self.d_model = list(layers), list(sequence_layers), d_model
        self._log = folder.with_name("shards.jsonl")
        self._done: dict[str, dict[str, Any]] = {}

    def write(self, examples: Sequence[Kept], header: Mapping[str, Any], on_shard: ShardDone) -> None:
        """Write arrays, metadata and manifest.

        Args:
            examples: The store's examples; train rows first, then validation, then test.
            header: The manifest's sections other than ``splits`` and ``files``.
            on_shard: Progress.
        """
        # A kill leaves half-written files beside those they were to become.
        for path in [*self.folder.rglob("*.partial")]:
            path.unlink()
        self._done = dict(self._read_log())
        # Creating a group again would empty it: what a killed writer has finished is kept.
        group = zarr.open_group(self.folder, mode="a", zarr_format=3)
        splits = split_counts(examples)
        group.attrs.put(group_attributes(header, splits))
        for name, values in self._columns(examples).items():
            self._write_column(group, name, values)
        for index in range(len(self.layers)):
            self._write_final_tokens(group, examples, index, on_shard)
        for index in range(len(self.sequence_layers)):
            self._write_sequences(group, examples, index, on_shard)
        with warnings.catch_warnings():
            # Consolidated metadata is an extension, and what makes a remote store open in one read.
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(group.store)
        for path in (self.folder, *(p for p in self.folder.rglob("*"))):
            if path.is_dir() or str(path.relative_to(self.folder)) not in self._done:
                sync(path)
        sections = {"format": FORMAT, "format_version": FORMAT_VERSION, **header, "splits": splits}
        seal(self.folder, sections, self._done)

    def bytes_to_write(self, examples: Sequence[Kept]) -> int:
        """Uncompressed bytes of all residuals, for a progress bar."""
        tokens = sum(len(e) for e in examples)
        values = len(self.layers) * len(examples) + len(self.sequence_layers) * tokens
        return 4 * self.d_model * values

    def _write_final_tokens(
        self, group: zarr.Group, examples: Sequence[Kept], index: int, on_shard: ShardDone
    ) -> None:
        shape = (len(self.layers), len(examples), self.d_model)
        array = self._array(group, FINAL_TOKEN, shape, final_token_layout(self.d_model, len(examples)))
        with self._shard(f"{FINAL_TOKEN}/c/{index}/0/0") as wanted:
            if wanted:
                array[index] = widen(np.stack([e.block.final_token[index, e.row] for e in examples]))
        on_shard(4 * shape[1] * shape[2])

    def _write_sequences(
        self, group: zarr.Group, examples: Sequence[Kept], index: int, on_shard: ShardDone
    ) -> None:
        lengths = [len(e) for e in examples]
        starts = np.cumsum([0, *lengths])
        total = int(starts[-1])
        layout = sequence_layout(self.d_model, total)
        array = self._array(group, SEQUENCE, (len(self.sequence_layers), total, self.d_model), layout)
        step = layout.outer[1]
        for number, begin in enumerate(range(0, total, step)):
            end = min(begin + step, total)
            with self._shard(f"{SEQUENCE}/c/{index}/{number}/0") as wanted:
                if wanted:
                    first, last = np.searchsorted(starts, [begin, end - 1], side="right") - 1
                    parts = [e.block.sequence[index, e.tokens] for e in examples[first : last + 1]]
                    lead = begin - starts[first]
                    array[index, begin:end] = widen(np.concatenate(parts)[lead : lead + end - begin])
            on_shard(4 * (end - begin) * self.d_model)

    def _columns(self, examples: Sequence[Kept]) -> dict[str, np.ndarray]:
        columns = {
            "layer": np.array(self.layers),
            "sequence_layer": np.array(self.sequence_layers),
            "offsets": np.cumsum([0, *map(len, examples)]),
            "token_ids": np.concatenate([e.block.token_ids[e.tokens] for e in examples]),
            "final_token_position": np.array([len(e) - 1 for e in examples]),
            "split": np.array([SPLITS.index(e.split) for e in examples]),
            "prompt": np.array([e.block.prompts[e.row] for e in examples], dtype=object),
        }
        most = max(len(e.values["choices"]) for e in examples)
        for name in examples[0].values:
            values = [e.values[name] for e in examples]
            if ARRAYS[name].dims == ("example", "choice"):
                empty = {"string": "", "float64": np.nan}.get(ARRAYS[name].dtype, 0)
                values = [[*v, *[empty] * (most - len(v))] for v in values]
            columns[name] = np.array(values, dtype=object if ARRAYS[name].dtype == "string" else None)
        return columns

    def _write_column(self, group: zarr.Group, name: str, values: np.ndarray) -> None:
        spec = ARRAYS[name]
        layout = Layout(tuple(max(1, n) for n in values.shape), None, (), _column_compressors())
        array = self._array(group, name, values.shape, layout)
        if values.size:
            array[...] = values.astype(str if spec.dtype == "string" else spec.dtype)

    def _array(self, group: zarr.Group, name: str, shape: tuple[int, ...], layout: Layout) -> Any:
        spec = ARRAYS[name]
        if name in group:
            return group[name]
        fill: Any = {"string": "", "float32": np.nan, "float64": np.nan}.get(spec.dtype, -1)
        return group.create_array(
            name,
            shape=shape,
            dtype=str if spec.dtype == "string" else spec.dtype,
            chunks=layout.chunks,
            shards=layout.shards,
            filters=layout.filters or "auto",
            compressors=layout.compressors,
            # What is missing must never read as an ordinary number.
            fill_value=fill,
            dimension_names=spec.dims,
            attributes={"description": spec.description},
        )

    @contextmanager
    def _shard(self, name: str) -> Iterator[bool]:
        """Around the writing of one shard: says whether it is wanted, then makes it durable and notes it."""
        if name in self._done:
            yield False
            return
        yield True
        path = self.folder / name
        sync(path)
        sync(path.parent)
        entry = self._done[name] = describe(path)
        with self._log.open("a") as log:
            log.write(json.dumps({"file": name, **entry}) + "\n")
            log.flush()
            os.fsync(log.fileno())

    def _read_log(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self._log.exists():
            return
        for line in self._log.read_text().splitlines():
            # A line that a kill has cut short stands for a shard that is written again.
            if line.endswith("}"):
                entry = json.loads(line)
                path = self.folder / entry.pop("file")
                if path.is_file() and path.stat().st_size == entry["size"]:
                    yield str(path.relative_to(self.folder)), entry


def seal(folder: Path, sections: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> None:
    """Write the manifest over every other file of a folder.

    Args:
        folder: The store.
        sections: The manifest's sections other than ``files``.
        known: Entries of files that need not be read again.
    """
    found = (p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    names = sorted(p.relative_to(folder).as_posix() for p in found)
    files = {name: (known or {}).get(name) or describe(folder / name) for name in names}
    write_file(folder / MANIFEST, render_manifest({**sections, "files": files}))


def describe(path: Path) -> dict[str, Any]:
    """A file's entry in the manifest: size in bytes and SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def split_counts(examples: Sequence[Kept]) -> dict[str, dict[str, int]]:
    """Per split, in order: its first row, its rows, and the successes among them."""
    counts: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        successes = [e.values["success"] for e in examples if e.split == split]
        start = sum(c["examples"] for c in counts.values())
        counts[split] = {"start": start, "examples": len(successes), "successes": int(sum(successes))}
    return counts


def _column_compressors() -> tuple[Any, ...]:
    return (ZstdCodec(level=3), Crc32cCodec())


def group_attributes(header: Mapping[str, Any], splits: Mapping[str, Any]) -> dict[str, Any]:
    """What the Zarr group says of itself to whoever opens it without us."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "task": header["task"],
        "model": header["model"]["id"],
        "protocol": header["protocol"]["name"],
        "splits": {s: {n: splits[s][n] for n in ("start", "examples", "successes")} for s in SPLITS},
    }
