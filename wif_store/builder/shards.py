"""One shard of residuals: journalled pieces in, one file of the standard Zarr layout out, chunk by chunk.

A shard is its compressed chunks end to end, then an index with the offset and length of each and a CRC32C.
zarr would build it in memory, whole; here a few chunks are.
"""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, Final

import numpy as np

from wif_store.format.chunks import ChunkEncoder
from wif_store.format.layout import crc32c
from wif_store.storage import write_described

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from concurrent.futures import Future

    from wif_store.builder.blocks import Blocks, Piece
    from wif_store.format.layout import Layout
    from wif_store.builder.journal import Journal
    from wif_store.storage import Entry
    from wif_store.records import Raw
    from wif_store.format.schema import Int64

MISSING: Final = 2**64 - 1
"""Offset and length of a chunk that a shard at the array's end does not have."""


@dataclass(frozen=True, slots=True)
class ShardJob:
    """One shard to write: small, and all that a worker needs beside the journal.

    Attributes:
        name: The file's path below the store.
        layout: The array's plan.
        dtype: Of the journalled values.
        pieces: Where the rows stand.
        rows: How many rows of the array it holds.
        skip: Rows of the first piece that belong to the shard before.
        order: int64 ``[rows]``, which rows of the pieces they are; None for those that follow ``skip``.
    """

    name: str
    layout: Layout
    dtype: str
    pieces: tuple[Piece, ...]
    rows: int
    skip: int = 0
    order: Int64 | None = None

    @property
    def width(self) -> int:
        """Of the residual stream."""
        return self.layout.outer[2]

    @property
    def size(self) -> int:
        """Bytes of its values as float32."""
        return 4 * self.rows * self.width


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard that is written and durable."""

    name: str
    size: int
    """Bytes of its values as float32."""
    entry: Entry


def write_shards(
    journal: Journal, jobs: Iterable[ShardJob], threads: int = 1
) -> Generator[Shard, None, None]:
    """Write shards into the store, one after the other, and note each that is done.

    While one is hashed and made durable, chunks of the next are encoded. Of either, about three chunks a
    thread are held at a time, and the journalled rows of as many at most.

    Raises:
        BuildError: If a piece is not what was journalled.
    """
    layout = written = None
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="encode") as pool,
        ThreadPoolExecutor(1, thread_name_prefix="write") as writer,
    ):
        try:
            for job in jobs:
                if job.layout is not layout:  # An encoder has memory that it uses again.
                    layout, encode = job.layout, ChunkEncoder(job.layout)
                chunks = _in_order(_chunks(pool, encode, journal.blocks, job), 2 * threads + 2)
                if written:
                    yield written.result()
                written = writer.submit(_write, journal, job, chunks)
            if written:
                yield written.result()
        finally:
            # Whatever ends this, what is half written ends too, for its chunks do not come.
            pool.shutdown(wait=False, cancel_futures=True)


def shard_of(layout: Layout, raw: Raw) -> bytes:
    """The file of a shard whose rows, raw ``[rows, d_model]``, are all here."""
    return b"".join(_file(layout, chunks_of(layout, raw)))


def chunks_of(layout: Layout, raw: Raw) -> Iterator[bytes]:
    """The chunks of rows that are all here, in their order."""
    encode = ChunkEncoder(layout)
    _, step, channels = layout.chunks
    for begin, first in product(range(0, len(raw), step), range(0, raw.shape[1], channels)):
        yield encode(raw[begin : begin + step, first : first + channels])


def _write(journal: Journal, job: ShardJob, chunks: Iterator[bytes]) -> Shard:
    entry = write_described(journal.store, job.name, _file(job.layout, chunks))
    journal.note_shard(job.name, entry)
    return Shard(job.name, job.size, entry)


def _chunks(
    pool: ThreadPoolExecutor, encode: ChunkEncoder, blocks: Blocks, job: ShardJob
) -> Iterator[Future[bytes]]:
    """The chunks in their order, each begun when it is asked for; those of the same rows read them once."""
    _, step, channels = job.layout.chunks
    ends = np.cumsum([p.rows for p in job.pieces]) - job.skip
    for begin in range(0, job.rows, step):
        # A pool begins things in the order they are given, so nobody waits for what has not been begun.
        rows = pool.submit(_read, blocks, job, ends, begin)
        for first in range(0, job.width, channels):
            yield pool.submit(_encode, encode, rows, slice(first, first + channels))


def _read(blocks: Blocks, job: ShardJob, ends: np.ndarray, begin: int) -> Raw:
    """A chunk's rows from row ``begin`` of the shard on; ``ends`` are those of the pieces in it."""
    end = min(begin + job.layout.chunks[1], job.rows)
    if job.order is not None:
        return blocks.read(job.pieces, job.dtype, job.width).take(job.order[begin:end], 0)
    first = int(np.searchsorted(ends, begin, side="right"))
    last = int(np.searchsorted(ends, end))
    raw = blocks.read(job.pieces[first : last + 1], job.dtype, job.width)
    lead = begin - (int(ends[first]) - job.pieces[first].rows)
    return raw[lead : lead + end - begin]


def _encode(encode: ChunkEncoder, rows: Future[Raw], channels: slice) -> bytes:
    return encode(rows.result()[:, channels])


def _file(layout: Layout, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Chunk after chunk, and their index."""
    index = np.full((math.prod(layout.outer) // math.prod(layout.chunks), 2), MISSING, "<u8")
    offset = 0
    for number, chunk in enumerate(chunks):
        index[number] = offset, len(chunk)
        offset += len(chunk)
        yield chunk
    content = index.tobytes()
    yield content + crc32c(content)


def _in_order(chunks: Iterator[Future[bytes]], ahead: int) -> Iterator[bytes]:
    """What comes of them; ``ahead`` of them are begun now, and then one for each that is taken."""
    begun = deque(islice(chunks, ahead))

    def taken() -> Iterator[bytes]:
        while begun:
            yield begun.popleft().result()
            begun.extend(islice(chunks, 1))

    return taken()
