"""Chunks of residuals, from the model's own type to float32 that any Blosc reads.

A chunk is a Blosc frame of one block: a plane for each byte of a float32, each compressed by zstd. Blosc's
own encoder lets zstd search every plane for short repeats, which residuals hardly have: that takes most of
the time and saves nothing. Here zstd is told where to look.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zstandard

from wif_store.codecs import crc32c

if TYPE_CHECKING:
    from wif_store.codecs import Layout
    from wif_store.records import Raw

ITEM: Final = 4
"""Bytes of a float32, and so the planes of a chunk."""

NAN: Final = 0x7FC0_0000
"""What stands where a chunk has no rows: the bits of a float32, whose high half is that of a bfloat16."""

STRIP: Final = 128
"""Rows that are turned at once: numpy alone goes through all of them for each channel, which is slower."""

NEAR: Final = {
    "strategy": zstandard.STRATEGY_FAST,
    "window_log": 15,
    "chain_log": 6,
    "hash_log": 6,
    "search_log": 1,
    "min_match": 7,
    "target_length": 0,
}
"""Next to no search. What is left is how often each byte comes, counted anew every 32 KiB: a few channels."""

FAR: Final = {**NEAR, "window_log": 20, "enable_ldm": True, "ldm_min_match": 64, "ldm_bucket_size_log": 1}
"""The repeats of whole rows anywhere in the chunk, and how often each byte comes."""

WORTH: Final = 0.97
"""What a plane must shrink to: mantissas lose a hundredth, and would take as long to read as all else."""

SAMPLE: Final = 8
"""The share of a plane of mantissas that is tried where no rows come again."""

# https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
HEADER: Final = struct.Struct("<BBBBIIII")
"""Versions of the frame and of zstd in it, flags, bytes of an item, of the values, of a block and of the
frame; where the one block begins."""
SHUFFLED_ZSTD: Final = 0x81
UNDIVIDED: Final = 0x10
DIVISIBLE: Final = 128
"""Blosc compresses planes of fewer bytes together."""


class ChunkEncoder:
    """Encodes the chunks of one array as its metadata say; threads may share it.

    Args:
        layout: A plan of ``codecs``.
    """

    def __init__(self, layout: Layout) -> None:
        _, rows, channels = layout.chunks
        self._turned = bool(layout.filters)
        self._shape = (channels, rows) if self._turned else (rows, channels)
        self._repeats = layout.repeats
        self._desks: list[_Desk] = []

    def __call__(self, raw: Raw) -> bytes:
        """One chunk and its checksum.

        Args:
            raw: raw ``[rows, channels]``, always of one type. Rows that a chunk has beyond them are NaN.
        """
        # bfloat16 is the high half of a float32, whose low half is zero.
        words = raw if raw.dtype == np.uint16 else raw.astype(np.float32, copy=False).view(np.uint32)
        desk = self._desks.pop() if self._desks else _Desk(self._shape, words.dtype, repeats=self._repeats)
        parts = desk.encode(words, turned=self._turned)
        self._desks.append(desk)
        return b"".join((*parts, crc32c(*parts)))


class _Desk:
    """What one thread works with, used again: fresh pages cost as much as what is done in them."""

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[Any], *, repeats: bool) -> None:
        search: dict[str, Any] = FAR if repeats else NEAR
        self._repeats = repeats
        self._words = np.empty(shape, dtype)
        self._planes = np.zeros((ITEM, self._words.size), np.uint8)
        self._zstd = zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(**search)
        )
        self._zeros = self._compress(self._planes[0])

    def encode(self, words: np.ndarray, *, turned: bool) -> list[bytes]:
        """The parts of the frame of ``[rows, channels]``, whose channels stand end to end if ``turned``."""
        if turned or len(words) < len(self._words):
            self._fill(self._words.T if turned else self._words, words)
            words = self._words
        zeros = ITEM - words.itemsize
        for number, plane in enumerate(self._planes[zeros:]):
            np.right_shift(words.reshape(-1), 8 * number, out=plane, casting="unsafe")
        if self._planes.shape[1] < DIVISIBLE:
            flags, streams = SHUFFLED_ZSTD | UNDIVIDED, [self._compress(self._planes.reshape(-1))]
        else:
            mantissas = [self._mantissas(plane) for plane in self._planes[zeros:-1]]
            streams = [self._zeros] * zeros + [*mantissas, self._compress(self._planes[-1])]
            flags = SHUFFLED_ZSTD
        parts = [part for stream in streams for part in (len(stream).to_bytes(4, "little"), stream)]
        size, values = HEADER.size + sum(map(len, parts)), self._planes.size
        return [HEADER.pack(2, 1, flags, ITEM, values, values, size, HEADER.size), *parts]

    @staticmethod
    def _fill(room: np.ndarray, words: np.ndarray) -> None:
        for start in range(0, len(words), STRIP):
            strip = words[start : start + STRIP]
            room[start : start + len(strip)] = strip
        room[len(words) :] = NAN >> (32 - 8 * words.itemsize)

    def _mantissas(self, plane: np.ndarray) -> bytes:
        sample = plane[: plane.size // SAMPLE]
        hopeless = not self._repeats and len(self._zstd.compress(sample.data)) >= WORTH * sample.size
        return plane.tobytes() if hopeless else self._compress(plane)

    def _compress(self, plane: np.ndarray) -> bytes:
        packed = self._zstd.compress(plane.data)
        # Blosc takes what is as long as its plane for the plane itself.
        return packed if len(packed) < WORTH * plane.size else plane.tobytes()
