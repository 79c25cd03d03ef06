"""Rows -> a split of the store: which shards can be written, and the small files once all rows are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wif_store.builder.shards import ShardJob
from wif_store.format.chunks import encode
from wif_store.format.layout import (
    SHARD_EXAMPLES,
    final_token_layout,
    sequence_layout,
    sequence_shard,
)
from wif_store.format.manifest import render_manifest
from wif_store.format.metadata import metadata_files
from wif_store.format.schema import (
    ARRAYS,
    COORDINATES,
    FINAL_TOKEN,
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    SEQUENCE,
    SITES,
    SPLITS,
    TABLE,
    Manifest,
)
from wif_store.format.table import render_table
from wif_store.storage import write_described

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from wif_store.builder.blocks import Block
    from wif_store.records import Engine
    from wif_store.storage import Entry, Storage


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a split: where its residuals are journalled, and what the table says of it.

    Attributes:
        block: The block that has it.
        index: Its row among the residuals of the block.
        values: A value for every column of the table that the journal does not have.
    """

    block: Block
    index: int
    values: Mapping[str, Any]

    @property
    def token_ids(self) -> np.ndarray:
        """int32 ``[tokens]``."""
        begin, end = self.block.offsets[self.index : self.index + 2]
        return self.block.token_ids[begin:end]

    def __len__(self) -> int:
        """How many tokens it has."""
        return int(self.block.offsets[self.index + 1] - self.block.offsets[self.index])


@dataclass
class SplitWriter:
    """The rows of one split as they become final, and the shards that are made of them.

    Attributes:
        split: Its name.
        engine: Whose residuals they are.
        rows: The rows that are final, in the store's order.
        ends: For each of them, how many tokens the split has up to its end.
    """

    split: str
    engine: Engine
    rows: list[Row] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    _examples: int = 0
    """Rows that shards of final tokens were made of."""
    _tokens: int = 0
    """Tokens that shards of sequences were made of."""

    @property
    def tokens(self) -> int:
        """Of all rows that are final."""
        return self.ends[-1] if self.ends else 0

    @property
    def size(self) -> int:
        """Bytes of the residuals of all rows that are final, as float32."""
        each = len(self.engine.layers) * len(self.engine.sites)
        vectors = len(self.rows) * each + self.tokens * len(self.engine.sequence_layers)
        return 4 * self.engine.d_model * vectors

    def add(self, rows: Sequence[Row]) -> None:
        """Take up rows that are final."""
        for row in rows:
            self.rows.append(row)
            self.ends.append(self.tokens + len(row))

    def shards(self, *, last: bool = False) -> Iterator[ShardJob]:
        """The shards that can be written now and were not given out yet.

        Args:
            last: Whether there are no more rows, so that the shards at the end are as long as they get.
        """
        if self.engine.sequence_layers:
            step = sequence_shard(self.engine.d_model, len(self.engine.sequence_layers))
            while self._tokens + step <= self.tokens or (last and self._tokens < self.tokens):
                begin, self._tokens = self._tokens, min(self._tokens + step, self.tokens)
                yield self._sequence_shard(begin, self._tokens, begin // step)
        if self.engine.layers:
            while self._examples + SHARD_EXAMPLES <= len(self.rows) or (
                last and self._examples < len(self.rows)
            ):
                begin, self._examples = self._examples, min(self._examples + SHARD_EXAMPLES, len(self.rows))
                for site in self.engine.sites:
                    yield self._shard_of_site(site, begin, self._examples, begin // SHARD_EXAMPLES)

    @property
    def first_unwritten(self) -> int:
        """The first row that some shard is still to be made of."""
        rows = [self._examples] if self.engine.layers else []
        if self.engine.sequence_layers:
            rows.append(int(np.searchsorted(self.ends, self._tokens, side="right")))
        return min(rows)

    def first_row(self, job: ShardJob) -> int:
        """The first row that a shard has something of."""
        array, number = job.path.split("/")[1], int(job.path.split("/")[-2])
        if array in SITES:
            return number * SHARD_EXAMPLES
        step = sequence_shard(self.engine.d_model, len(self.engine.sequence_layers))
        return int(np.searchsorted(self.ends, number * step, side="right"))

    def _sequence_shard(self, begin: int, end: int, number: int) -> ShardJob:
        first = int(np.searchsorted(self.ends, begin, side="right"))
        final = int(np.searchsorted(self.ends, end))
        rows = self.rows[first : final + 1]
        layers = range(len(self.engine.sequence_layers))
        return ShardJob(
            path=f"{self.split}/{SEQUENCE}/c/0/{number}/0",
            layout=sequence_layout(self.engine.d_model, len(layers), self.tokens),
            dtype=rows[0].block.dtype,
            pieces=tuple(tuple(row.block.sequence(i, row.index) for row in rows) for i in layers),
            rows=end - begin,
            skip=begin - (self.ends[first] - len(rows[0])),
        )

    def _shard_of_site(self, site: str, begin: int, end: int, number: int) -> ShardJob:
        rows = self.rows[begin:end]
        blocks = {row.block.name: row.block for row in rows}
        # The vectors of a block are read at once: they are small, and many.
        starts = np.cumsum([0, *(block.rows for block in blocks.values())])
        start = dict(zip(blocks, starts.tolist(), strict=False))
        count = len(self.engine.layers)
        first = count * self.engine.sites.index(site)
        layers = range(first, first + count)
        return ShardJob(
            path=f"{self.split}/{site}/c/0/{number}/0",
            layout=final_token_layout(self.engine.d_model, count, len(self.rows)),
            dtype=rows[0].block.dtype,
            pieces=tuple(tuple(block.vectors(i) for block in blocks.values()) for i in layers),
            rows=end - begin,
            order=np.array([start[row.block.name] + row.index for row in rows]),
        )

    def table(self) -> list[dict[str, Any]]:
        """The table of examples, row by row."""
        return [
            {
                **row.values,
                **row.block.texts[row.index],
                "tokens": len(row),
                "final_token_position": len(row) - 1,
            }
            for row in self.rows
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        """The small arrays, by name."""
        return {
            "offsets": np.array([0, *self.ends]),
            "token_ids": np.concatenate([row.token_ids for row in self.rows]),
            "success": np.array([row.values["success"] for row in self.rows]),
        }


def finish_store(
    storage: Storage,
    sections: Mapping[str, Any],
    writers: Mapping[str, SplitWriter],
    shards: Mapping[str, Entry],
) -> None:
    """Write the small files of a store and then the manifest, which makes it one.

    Args:
        storage: Where the shards are.
        sections: The manifest's sections other than ``files``.
        writers: The rows of each split.
        shards: What the manifest says of each shard.
    """
    manifest = Manifest(**sections, files={})
    files = dict(shards)

    def write(name: str, content: bytes) -> None:
        files[name] = write_described(storage, name, [content])

    coordinates = {"layer": FINAL_TOKEN, "sequence_layer": SEQUENCE}
    for name, residuals in coordinates.items():
        _write_array(write, name, np.array(manifest.layers[residuals]), COORDINATES[name].dtype)
    for split in SPLITS:
        for name, values in writers[split].arrays().items():
            _write_array(write, f"{split}/{name}", values, ARRAYS[name].dtype)
        write(f"{split}/{TABLE}", render_table(writers[split].table(), manifest.outcome))
    for name, content in metadata_files(manifest).items():
        write(name, content)
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, **sections, "files": files}
    storage.write(MANIFEST, [render_manifest(header)])


def _write_array(write: Any, path: str, values: np.ndarray, dtype: str) -> None:
    """An array of one chunk; one without values has no file."""
    if values.size:
        write(f"{path}/c/0", encode(np.ascontiguousarray(values, dtype)))
