"""One shard of residuals: journalled pieces in, one file of the standard Zarr layout out, chunk by chunk."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from wif_store.format.chunks import encode, shard_file
from wif_store.records import widen
from wif_store.storage import write_described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor, Future

    from wif_store.builder.blocks import Piece
    from wif_store.builder.journal import Journal
    from wif_store.format.layout import Layout
    from wif_store.format.schema import Int64
    from wif_store.records import Raw
    from wif_store.storage import Entry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ShardJob:
    """One shard to write: small, picklable, and all that a worker needs beside the journal.

    Attributes:
        path: The file below the store.
        layout: The array's plan.
        dtype: Of the journalled values.
        pieces: For each layer of the shard, where its rows stand.
        rows: How many rows of the array the shard has.
        skip: Rows of the first piece that belong to the shard before.
        order: int64 ``[rows]``, which rows of the pieces they are; None for those that follow ``skip``.
    """

    path: str
    layout: Layout
    dtype: str
    pieces: tuple[tuple[Piece, ...], ...]
    rows: int
    skip: int = 0
    order: Int64 | None = None

    @property
    def width(self) -> int:
        """Of the residual stream."""
        return self.layout.file[2]

    @property
    def size(self) -> int:
        """Bytes of its values as float32."""
        return 4 * len(self.pieces) * self.rows * self.width


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard that is written and durable.

    Attributes:
        path: The file below the store.
        entry: What the manifest says of it.
    """

    path: str
    entry: Entry


def write_shard(job: ShardJob, journal: Journal, pool: Executor | None = None, ahead: int = 4) -> Shard:
    """Write a shard into the store, and note in the journal that it is done.

    Args:
        job: The shard.
        journal: Where its rows are.
        pool: Encodes chunks while others are written; without one, each is encoded when it is written.
        ahead: How many rows of chunks the pool may hold.

    Raises:
        BuildError: If a piece is not what was journalled.
    """
    layers, rows, _ = job.layout.file
    tasks = [
        partial(_encoded, job, journal, layer, begin)
        for layer, begin in product(range(layers), range(0, rows, job.layout.chunk[1]))
    ]
    encoded = _in_order(tasks, pool, ahead) if pool else (task() for task in tasks)
    checksums: list[str] = []
    count = math.prod(job.layout.chunks_per_shard)
    entry = write_described(journal.store, job.path, shard_file(encoded, count, checksums))
    entry["chunk_crc32c"] = "".join(checksums)
    journal.note_shard(job.path, entry)
    return Shard(job.path, entry)


def _encoded(job: ShardJob, journal: Journal, layer: int, begin: int) -> bytes | None:
    """The chunk of a layer from row ``begin`` of the shard on; None beyond the last row."""
    if begin >= job.rows:
        return None
    end = min(begin + job.layout.chunk[1], job.rows)
    return encode_rows(_read(job, journal, layer, begin, end), job.layout)


def encode_rows(raw: Raw, layout: Layout) -> bytes:
    """One chunk of an array.

    Args:
        raw: Raw residuals ``[rows, d_model]``, no more rows than a chunk has; NaN stands for those it lacks.
        layout: Of the array.
    """
    # Turned while they are narrow, which is half of the bytes.
    values = widen(np.ascontiguousarray(raw.T if layout.transposed else raw))
    if missing := layout.chunk[1] - len(raw):
        padding = [(0, missing), (0, 0)]
        values = np.pad(values, padding[::-1] if layout.transposed else padding, constant_values=np.nan)
    return encode(values)


def _read(job: ShardJob, journal: Journal, layer: int, begin: int, end: int) -> Raw:
    """Rows of a layer of the shard: raw ``[rows, d_model]``."""
    pieces = job.pieces[layer]
    if job.order is not None:
        return journal.blocks.read(pieces, job.dtype, job.width).take(job.order[begin:end], 0)
    ends = np.cumsum([piece.rows for piece in pieces]) - job.skip
    first = int(np.searchsorted(ends, begin, side="right"))
    last = int(np.searchsorted(ends, end))
    raw = journal.blocks.read(pieces[first : last + 1], job.dtype, job.width)
    lead = begin - (int(ends[first]) - pieces[first].rows)
    return raw[lead : lead + end - begin]


def _in_order(tasks: Sequence[Callable[[], T]], pool: Executor, ahead: int) -> Iterator[T]:
    """What comes of the tasks, in their order; a few are begun ahead, so that few results are held."""
    waiting = iter(tasks)
    begun: deque[Future[T]] = deque(pool.submit(task) for task in islice(waiting, ahead))
    while begun:
        yield begun.popleft().result()
        begun.extend(pool.submit(task) for task in islice(waiting, 1))
