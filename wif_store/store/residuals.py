"""Reads residuals straight from their shards: a range of a file at a time, decoded in threads, in place.

zarr reads any array and does so for all small ones. Of the two large ones most time would go into its own
pipeline; what is here knows the layout that our writer uses, checks what zarr checks, and leaves every other
layout to zarr.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numcodecs.blosc import Blosc

from wif_store.format.bounded import expect_size
from wif_store.format.layout import crc32c

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from wif_store.storage import Storage
    from wif_store.format.schema import Float32

THREADS: Final = min(8, os.cpu_count() or 1)
INDEX: Final = {"name": "bytes", "configuration": {"endian": "little"}}
CRC: Final = {"name": "crc32c"}


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="decode")


# Its threads are not there after a fork, though it would think so.
os.register_at_fork(after_in_child=_pool.cache_clear)


@dataclass(frozen=True, slots=True)
class Run:
    """Chunks that follow each other in one shard, to be read at once.

    Attributes:
        name: The shard's file.
        layer: Row of the result.
        first: The first of them, as counted over the array's grid of chunks, row by row.
        places: int64 ``[chunks, 2]``, offset and length of each.
    """

    name: str
    layer: int
    first: int
    places: np.ndarray


class DirectArray:
    """One array ``[layer, row, d_model]`` of float32, cut as our writer cuts it.

    Args:
        place: The store.
        name: The array.
        metadata: Its checked metadata; ``understands`` them.
        files: The manifest's files.
    """

    def __init__(
        self, place: Storage, name: str, metadata: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._place, self._name = place, name
        self._sizes = {file: entry["size"] for file, entry in files.items() if file.startswith(f"{name}/c/")}
        self._rows: int = metadata["shape"][1]
        _, self._shard, self._width = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        inner = metadata["codecs"][0]["configuration"]
        _, self._step, self._channels = inner["chunk_shape"]
        self._across = self._width // self._channels
        self._turned = inner["codecs"][0]["name"] == "transpose"
        # Where threads decode what cannot be decoded in its place: fresh memory costs as much as decoding.
        self._room_shape = (self._channels, self._step) if self._turned else (self._step, self._channels)
        self._rooms: list[Float32] = []
        self._indices: dict[str, np.ndarray] = {}

    @staticmethod
    def understands(metadata: Mapping[str, Any]) -> bool:
        """Whether an array is cut into shards and chunks as our writer cuts it."""
        sharding = metadata["codecs"][0]
        if sharding["name"] != "sharding_indexed" or metadata["data_type"] != "float32":
            return False
        inner, outer = sharding["configuration"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
        turn = {"name": "transpose", "configuration": {"order": [0, 2, 1]}}
        codecs = inner["codecs"][1:] if inner["codecs"][0] == turn else inner["codecs"]
        return (
            inner.get("index_location", "end") == "end"
            and inner["index_codecs"] == [INDEX, CRC]
            and len(codecs) == 3
            and (codecs[0], codecs[1]["name"], codecs[2]) == (INDEX, "blosc", CRC)
            and inner["chunk_shape"][0] == 1
            and outer[::2] == [1, metadata["shape"][2]]
        )

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
            ValueError: If a chunk or an index is not what was written.
            OSError: If a file cannot be read.
        """
        rows = max(0, stop - start)
        # Where a chunk has all rows, it is decoded in its place, and its padding with it.
        held = max(rows, self._step) if rows == self._rows and self._turned else rows
        if self._turned:
            values = np.empty((len(layers), self._width, held), np.float32).transpose(0, 2, 1)
        else:
            values = np.empty((len(layers), held, self._width), np.float32)
        runs = [run for i, layer in enumerate(layers) for run in self._runs(layer, i, start, stop)]
        waiting = iter(runs)

        def work() -> None:
            room = self._rooms.pop() if self._rooms else np.empty(self._room_shape, np.float32)
            for run in waiting:
                self._fill(values[run.layer], run, start, room)
            self._rooms.append(room)

        helping = [_pool().submit(work) for _ in range(min(len(runs), THREADS) - 1)]
        try:
            work()
        finally:
            # Whatever ends this, nothing reads on behind the caller's back.
            wait(helping)
        for done in helping:
            done.result()
        return values[:, :rows]

    def _runs(self, layer: int, row: int, start: int, stop: int) -> Iterator[Run]:
        """What is to be read of one layer."""
        for begin in range(start - start % self._shard, stop, self._shard):
            name = f"{self._name}/c/{layer}/{begin // self._shard}/0"
            first = max(0, start - begin) // self._step * self._across
            last = -(-min(self._shard, stop - begin) // self._step) * self._across
            places = self._index(name)[first:last]
            if np.any(places[:, 0] + places[:, 1] > self._sizes[name]) or np.any(places[:, 1] < 20):
                msg = f"the index of {name} points where no chunk can be"
                raise ValueError(msg)
            # Where chunks follow each other, they are read together, up to what one request is good for.
            starts, ends = places[:, 0].tolist(), places.sum(1).tolist()
            cut = 0
            for i in range(1, len(places) + 1):
                if i == len(places) or starts[i] != ends[i - 1] or ends[i] - starts[cut] > self._place.span:
                    yield Run(name, row, begin // self._step * self._across + first + cut, places[cut:i])
                    cut = i

    def _index(self, name: str) -> np.ndarray:
        """Offset and length of each chunk of a shard: int64 ``[chunks, 2]``."""
        if name not in self._indices:
            size, length = self._sizes[name], 16 * (self._shard // self._step * self._across) + 4
            content = self._place.read(name, size - length, size)
            if len(content) != length or crc32c(content[:-4]) != content[-4:]:
                msg = f"the index of {name} does not have its checksum"
                raise ValueError(msg)
            # What is missing becomes negative, and is found when it is wanted.
            self._indices[name] = np.frombuffer(content[:-4], "<i8").reshape(-1, 2)
        return self._indices[name]

    def _fill(self, values: Float32, run: Run, start: int, room: Float32) -> None:
        """Read a run and decode it into a layer whose first row is row ``start`` of the array."""
        origin = int(run.places[0, 0])
        # An array, for its slices are no copies.
        found = np.frombuffer(self._place.read(run.name, origin, int(run.places[-1].sum())), np.uint8)
        for number, (offset, length) in enumerate(run.places.tolist(), run.first):
            chunk = found[offset - origin : offset - origin + length]
            if len(chunk) != length or crc32c(chunk[:-4]) != chunk[-4:].tobytes():
                msg = f"a chunk of {run.name} does not have its checksum"
                raise ValueError(msg)
            expect_size(int.from_bytes(chunk[4:8].tobytes(), "little"), length, room.size, 4)
            row, column = divmod(number, self._across)
            channels = slice(column * self._channels, (column + 1) * self._channels)
            self._decode(chunk[:-4], values[:, channels], row * self._step - start, room)

    def _decode(self, chunk: np.ndarray, values: Float32, at: int, room: Float32) -> None:
        """Decode a chunk whose first row is row ``at`` of ``values``; what is outside of them is dropped."""
        begin, end = max(0, at), min(len(values), at + self._step)
        place = values[begin:end].T if self._turned else values[begin:end]
        if place.shape == room.shape and place.flags.c_contiguous:
            Blosc().decode(chunk, out=place)
            return
        Blosc().decode(chunk, out=room)
        inside = slice(begin - at, end - at)
        place[...] = room[:, inside] if self._turned else room[inside]
