"""Journal -> store: the kept examples, ordered by split, as shards to write, small arrays and a manifest."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from wif_store.format.layout import Layout, final_token_layout, sequence_layout
from wif_store.format.manifest import render_manifest
from wif_store.storage import write_described
from wif_store.format.schema import ARRAYS, FINAL_TOKEN, FORMAT, FORMAT_VERSION, MANIFEST, SEQUENCE, SPLITS
from wif_store.builder.shards import ShardJob

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from wif_store.builder.blocks import Block
    from wif_store.storage import Entry, Storage
    from wif_store.format.schema import Int64


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
    """Says which shards a store of these examples has, and writes everything else.

    Args:
        examples: The store's examples; train rows first, then validation, then test.
        layers: The blocks whose residuals at the final token it holds.
        sequence_layers: Those whose residuals at every token it holds.
        d_model: Width of the residual stream.
    """

    def __init__(
        self, examples: Sequence[Kept], layers: Sequence[int], sequence_layers: Sequence[int], d_model: int
    ) -> None:
        self._examples = examples
        self._layers, self._sequence_layers = list(layers), list(sequence_layers)
        # What every row of the two large arrays is, and how they are cut.
        n, tokens = len(examples), sum(map(len, examples))
        self._large = {FINAL_TOKEN: ((len(layers), n, d_model), final_token_layout(d_model, n))}
        if sequence_layers:
            shape = (len(sequence_layers), tokens, d_model)
            self._large[SEQUENCE] = (shape, sequence_layout(d_model, tokens))

    @property
    def size(self) -> int:
        """Bytes of all residuals as float32."""
        return sum(4 * math.prod(shape) for shape, _ in self._large.values())

    def shards(self) -> Iterator[ShardJob]:
        """The shards of both arrays of residuals, each a job of its own; those of one layer are held.

        The large ones come first: whoever writes several at once is then not left with one of them.
        """
        for index in range(len(self._sequence_layers)):
            yield from self._sequence_shards(index)
        for index in range(len(self._layers)):
            yield from self._vector_shards(index)

    def finish(self, place: Storage, header: Mapping[str, Any], shards: Mapping[str, Entry]) -> None:
        """Write small arrays and metadata, and then the manifest, which makes it a store.

        Args:
            place: Where the shards are.
            header: The manifest's sections other than ``splits`` and ``files``.
            shards: What is to be said of each shard.
        """
        splits = split_counts(self._examples)
        # zarr writes to memory, so that no file of its making is ever half there.
        made: dict[str, Any] = {}
        group = zarr.create_group(zarr.storage.MemoryStore(made), zarr_format=3)
        group.attrs.put(group_attributes(header, splits))
        for name, values in self._columns().items():
            self._add_column(group, name, values)
        for name, (shape, layout) in self._large.items():
            _add_array(group, name, shape, layout)
        with warnings.catch_warnings():
            # Consolidated metadata is an extension, and what makes a remote store open in one read.
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(group.store)
        files = {name: write_described(place, name, [made[name].to_bytes()]) for name in sorted(made)}
        sections = {"format": FORMAT, "format_version": FORMAT_VERSION, **header, "splits": splits}
        manifest = render_manifest({**sections, "files": {**files, **shards}})
        place.write(MANIFEST, [manifest])

    def _vector_shards(self, index: int) -> Iterator[ShardJob]:
        """Of one layer. The vectors of a block are read at once: they are small, and many."""
        _, layout = self._large[FINAL_TOKEN]
        for number, (blocks, order) in enumerate(self._vectors):
            pieces = tuple(block.vectors(index) for block in blocks)
            name = f"{FINAL_TOKEN}/c/{index}/{number}/0"
            yield ShardJob(name, layout, blocks[0].dtype, pieces, len(order), order=order)

    @cached_property
    def _vectors(self) -> list[tuple[list[Block], Int64]]:
        """Of each shard of vectors: the blocks they are in, and which of all of theirs they are."""
        found = []
        _, layout = self._large[FINAL_TOKEN]
        step = layout.outer[1]
        for begin in range(0, len(self._examples), step):
            examples = self._examples[begin : begin + step]
            blocks = {e.block.number: e.block for e in examples}
            ends = np.cumsum([block.rows for block in blocks.values()])
            starts = {number: end - blocks[number].rows for number, end in zip(blocks, ends, strict=True)}
            order = np.array([starts[e.block.number] + e.row for e in examples])
            found.append((list(blocks.values()), order))
        return found

    def _sequence_shards(self, index: int) -> Iterator[ShardJob]:
        """Of one layer."""
        (_, tokens, _), layout = self._large[SEQUENCE]
        pieces = [e.block.sequence(index, e.row) for e in self._examples]
        ends = np.cumsum([p.rows for p in pieces])
        step = layout.outer[1]
        for number, begin in enumerate(range(0, tokens, step)):
            end = min(begin + step, tokens)
            first = int(np.searchsorted(ends, begin, side="right"))
            last = int(np.searchsorted(ends, end))
            held = tuple(pieces[first : last + 1])
            skip = begin - (int(ends[first]) - held[0].rows)
            name = f"{SEQUENCE}/c/{index}/{number}/0"
            yield ShardJob(name, layout, self._examples[0].block.dtype, held, end - begin, skip=skip)

    def _columns(self) -> dict[str, np.ndarray]:
        examples = self._examples
        columns = {
            "layer": np.array(self._layers),
            "sequence_layer": np.array(self._sequence_layers),
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

    def _add_column(self, group: zarr.Group, name: str, values: np.ndarray) -> None:
        spec = ARRAYS[name]
        layout = Layout(tuple(max(1, n) for n in values.shape), None, (), _column_compressors())
        array = _add_array(group, name, values.shape, layout)
        if values.size:
            array[...] = values.astype(str if spec.dtype == "string" else spec.dtype)


def _add_array(group: zarr.Group, name: str, shape: tuple[int, ...], layout: Layout) -> Any:
    spec = ARRAYS[name]
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
