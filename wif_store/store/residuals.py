"""Reads arrays of residuals from their shards: a range of a file at a time, decoded in threads.

zarr reads these arrays too, in three times the processor time. What is here knows the one layout that a store
has, checks what zarr checks, and holds every chunk against the manifest besides.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.format.chunks import CHECKSUM, ChunkError, decode, index_bytes, read_index
from wif_store.processors import processors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from wif_store.format.layout import Layout
    from wif_store.format.schema import Float32
    from wif_store.storage import Storage

MOST_THREADS: Final = 8


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix="decode")


@cache
def _threads() -> int:
    return min(MOST_THREADS, processors())


if hasattr(os, "register_at_fork"):
    # A forked child inherits the pool object but not its threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)


@dataclass(frozen=True, slots=True)
class Run:
    """Chunks that follow each other in one shard and are read at once.

    Attributes:
        file: The shard's name below the array.
        layer: Row of the result.
        begin: The first row of the shard in the array.
        first: Number of the first chunk among those of its shard.
        ranges: int64 ``[chunks, 2]``, offset and length of each.
    """

    file: str
    layer: int
    begin: int
    first: int
    ranges: np.ndarray


def empty(shape: tuple[int, int, int], *, transposed: bool) -> Float32:
    """Room for ``[layers, rows, d_model]``; if ``transposed``, values of a channel are next to each other."""
    if transposed:
        return np.empty((shape[0], shape[2], shape[1]), np.float32).transpose(0, 2, 1)
    return np.empty(shape, np.float32)


def in_threads(tasks: Sequence[Callable[[], None]]) -> None:
    """Do all of these, in this thread and those of the pool; whatever ends it, nothing goes on afterwards."""
    waiting, lock = iter(tasks), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                task = next(waiting, None)
            if task is None:
                return
            task()

    others = [_pool().submit(work) for _ in range(min(len(tasks), _threads()) - 1)]
    try:
        work()
    finally:
        wait(others)
    for done in others:
        done.result()


class ResidualArray:
    """One array ``[layer, row, d_model]`` of float32.

    Args:
        storage: The store.
        path: The array's path below the store.
        layout: How it is cut.
        files: The manifest's files.
    """

    def __init__(
        self, storage: Storage, path: str, layout: Layout, files: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._storage, self._path, self._files = storage, path, files
        self._layers, self._rows, self._width = layout.shape
        self._shard = layout.file[1]
        self.step = layout.chunk[1]
        self._down = layout.chunks_per_shard[1]
        self._transposed = layout.transposed
        # Fresh memory costs as much as decoding: each thread decodes into an array of its own.
        self._local = threading.local()
        self._indices: dict[str, np.ndarray] = {}
        self._keeping = threading.Lock()

    def read(self, layers: Sequence[int], start: int, stop: int) -> Float32:
        """Rows of some layers.

        Args:
            layers: Rows of the array's first axis.
            start: The first row of its second.
            stop: The row after the last.

        Returns:
            float32 ``[layers, rows, d_model]``, with the values of a channel next to each other where they
            are so on disk.

        Raises:
            ChunkError: If a chunk or an index is not what was written.
            OSError: If a file cannot be read.
        """
        values = empty((len(layers), max(0, stop - start), self._width), transposed=self._transposed)
        in_threads(self.fills(values, layers, start, stop))
        return values

    def fills(
        self, values: Float32, layers: Sequence[int], start: int, stop: int
    ) -> list[Callable[[], None]]:
        """What is to be done to have rows of some layers in ``values``, ``[layers, rows, d_model]``."""
        runs = [run for i, layer in enumerate(layers) for run in self._runs(layer, i, start, stop)]
        return [partial(self._fill, values[run.layer], run, start) for run in runs]

    def _runs(self, layer: int, row: int, start: int, stop: int) -> Iterator[Run]:
        """What is to be read of one layer."""
        for begin in range(start - start % self._shard, stop, self._shard):
            file = f"c/0/{begin // self._shard}/0"
            first = layer * self._down + max(0, start - begin) // self.step
            last = layer * self._down + -(-min(self._shard, stop - begin) // self.step)
            ranges = self._index(file)[first:last]
            if np.any(ranges[:, 0] < 0):
                msg = f"{self._path}/{file} lacks a chunk"
                raise ChunkError(msg)
            # Chunks that follow each other are read together, up to what one request is good for.
            starts, ends = ranges[:, 0].tolist(), ranges.sum(1).tolist()
            cut = 0
            for i in range(1, len(ranges) + 1):
                if i == len(ranges) or starts[i] != ends[i - 1] or ends[i] - starts[cut] > self._storage.span:
                    yield Run(file, row, begin, first + cut, ranges[cut:i])
                    cut = i

    def _index(self, file: str) -> np.ndarray:
        """Offset and length of each chunk of a shard: int64 ``[chunks, 2]``."""
        with self._keeping:
            if file not in self._indices:
                name, count = f"{self._path}/{file}", self._layers * self._down
                size = self._files[name]["size"]
                end = size - index_bytes(count)
                self._indices[file] = read_index(self._storage.read(name, end, size), count, end)
            return self._indices[file]

    def _fill(self, values: Float32, run: Run, start: int) -> None:
        """Read a run and decode it into a layer whose first row is row ``start`` of the array."""
        origin = int(run.ranges[0, 0])
        name = f"{self._path}/{run.file}"
        # An array, for its slices are no copies.
        found = np.frombuffer(self._storage.read(name, origin, int(run.ranges[-1].sum())), np.uint8)
        checksums = self._files[name].get("chunk_crc32c", "")
        for number, (offset, length) in enumerate(run.ranges.tolist(), run.first):
            chunk = found[offset - origin : offset - origin + length]
            expected = checksums[8 * number : 8 * number + 8]
            if len(chunk) != length or chunk[-CHECKSUM:].tobytes().hex() != expected:
                msg = f"a chunk of {name} is not the one that the manifest names"
                raise ChunkError(msg)
            self._decode(chunk, values, run.begin + number % self._down * self.step - start)

    def _decode(self, chunk: np.ndarray, values: Float32, at: int) -> None:
        """Decode a chunk whose first row is row ``at`` of ``values``; what is outside of them is dropped."""
        shape = (self._width, self.step) if self._transposed else (self.step, self._width)
        begin, end = max(0, at), min(len(values), at + self.step)
        target = values[begin:end].T if self._transposed else values[begin:end]
        if target.shape == shape and target.flags.c_contiguous:
            decode(chunk, target)
            return
        buffer = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = np.empty(shape, np.float32)
        decode(chunk, buffer)
        inside = slice(begin - at, end - at)
        target[...] = buffer[:, inside] if self._transposed else buffer[inside]
