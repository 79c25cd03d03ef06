"""One shard of residuals: journalled pieces in, one file of the standard Zarr layout out, chunk by chunk.

A shard is its compressed chunks end to end, then an index with the offset and length of each and a CRC32C.
zarr would build it in memory, whole; here a few chunks are.
"""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, product, tee
from typing import TYPE_CHECKING, Final

import numpy as np

from wif_store.chunks import ChunkEncoder
from wif_store.codecs import crc32c
from wif_store.places import write_described

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from concurrent.futures import Future

    from wif_store.blocks import Blocks, Piece
    from wif_store.codecs import Layout
    from wif_store.journal import Journal
    from wif_store.places import Entry
    from wif_store.records import Raw

MISSING: Final = 2**64 - 1
"""Offset and length of a chunk that a shard at the array's end does not have."""


@dataclass(frozen=True, slots=True)
class ShardJob:
    """One shard to write: small, and all that a worker needs beside the journal.

    Attributes:
        name: The file's path below the store.
        layout: The array's plan.
        dtype: Of the journalled values.
        pieces: Where the rows stand, in their order.
        skip: Rows of the first piece that belong to the shard before.
        rows: How many rows of the array it holds.
    """

    name: str
    layout: Layout
    dtype: str
    pieces: tuple[Piece, ...]
    skip: int
    rows: int

    @property
    def width(self) -> int:
        """Of the residual stream."""
        return self.layout.outer[2]

    @property
    def size(self) -> int:
        """Bytes of its values as float32."""
        return 4 * self.rows * self.width

    @property
    def chunks(self) -> int:
        """How many chunks of it have rows."""
        _, step, channels = self.layout.chunks
        return math.ceil(self.rows / step) * (self.width // channels)


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

    While one is hashed and made durable, chunks of the next are encoded. Holds about three chunks a thread
    at a time, and the journalled rows of as many at most.

    Raises:
        BuildError: If a piece is not what was journalled.
    """
    jobs, ahead = tee(jobs)
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="encode") as pool,
        closing(_in_order(_chunks(pool, journal.blocks, ahead), 2 * threads + 2)) as chunks,
    ):
        for job in jobs:
            entry = write_described(journal.store, job.name, _file(job.layout, islice(chunks, job.chunks)))
            journal.note_shard(job.name, entry)
            yield Shard(job.name, job.size, entry)


def shard_of(layout: Layout, raw: Raw) -> bytes:
    """The file of a shard whose rows, raw ``[rows, d_model]``, are all here."""
    return b"".join(_file(layout, chunks_of(layout, raw)))


def chunks_of(layout: Layout, raw: Raw) -> Iterator[bytes]:
    """The chunks of rows that are all here, in their order."""
    encode = ChunkEncoder(layout)
    _, step, channels = layout.chunks
    for begin, first in product(range(0, len(raw), step), range(0, raw.shape[1], channels)):
        yield encode(raw[begin : begin + step, first : first + channels])


def _chunks(pool: ThreadPoolExecutor, blocks: Blocks, jobs: Iterable[ShardJob]) -> Iterator[Future[bytes]]:
    """The chunks in their order, each begun when it is asked for; those of the same rows read them once."""
    layout = None
    for job in jobs:
        if job.layout is not layout:  # An encoder has memory that it uses again.
            layout, encode = job.layout, ChunkEncoder(job.layout)
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


def _in_order(chunks: Iterator[Future[bytes]], ahead: int) -> Generator[bytes, None, None]:
    """What comes of them, at most ``ahead`` of them begun before they are asked for."""
    begun: deque[Future[bytes]] = deque()
    try:
        for chunk in chunks:
            begun.append(chunk)
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
