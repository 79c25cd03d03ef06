"""Chunks of residuals, from the model's own type to float32 that any Blosc reads.

A chunk is a Blosc frame of one block: a plane for each byte of a float32, each compressed by zstd. Blosc's
own encoder lets zstd search every plane for short repeats: that takes most of the time, in decoding too, and
what residuals have in common is found elsewhere. Here zstd is told where to look.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store import zstd
from wif_store.format.layout import crc32c

if TYPE_CHECKING:
    from wif_store.format.layout import Layout
    from wif_store.records import Raw

ITEM: Final = 4
"""Bytes of a float32, and so the planes of a chunk."""

NAN: Final = 0x7FC0_0000
"""What stands where a chunk has no rows: the bits of a float32, whose high half is that of a bfloat16."""

STRIP: Final = 128
"""Rows that are turned at once: numpy alone goes through all of them for each channel, which is slower."""

# Parameters of zstd.h that Python does not name: whether bytes are Huffman-coded, and most bytes of a block.
HUFFMAN: Final = 1002
ALWAYS, NEVER = 1, 2
BLOCK: Final = 1015
MOST_BLOCK: Final = 2**17

Search = dict[int, int]
Z = zstd.CompressionParameter
NOWHERE: Final[Search] = {Z.strategy: zstd.Strategy.fast, Z.target_length: MOST_BLOCK, Z.hash_log: 6}
"""No search for repeats: from the first byte of a block the next step leads past its end."""

KEPT: Final[Search] = {**NOWHERE, HUFFMAN: NEVER}
"""Bytes as they are."""

COUNTED: Final[Search] = {**NOWHERE, HUFFMAN: ALWAYS}
"""How often each byte comes in its block."""

NEAR: Final[Search] = {
    Z.strategy: zstd.Strategy.fast,
    Z.hash_log: 6,
    Z.min_match: 7,
    Z.window_log: 15,
    HUFFMAN: ALWAYS,
}
"""Repeats of a few bytes, as of a channel whose exponents hardly change, and how often each byte comes."""

FAR: Final[Search] = {
    **COUNTED,
    Z.enable_long_distance_matching: 1,
    Z.ldm_min_match: 64,
    Z.ldm_bucket_size_log: 1,
}
"""The repeats of whole rows anywhere in the chunk, and how often each byte comes."""

MANY_ROWS: Final = 1024
CHANNELS: Final = 2
"""Where the values of a channel stand end to end and are many, bytes are counted anew for so many channels.
That makes them smaller than repeats do, and sooner read. Of fewer values the counts take too much themselves.
"""

WORTH: Final = 0.97
"""What a plane must shrink to: mantissas lose a hundredth, and would take as long to read as all else."""

SAMPLE: Final = 8
"""The share of a plane of mantissas that is tried where no rows come again."""

# https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
HEADER: Final = struct.Struct("<BBBBIIIII")
"""Versions of the frame and of zstd in it, flags, bytes of an item, of the values, of a block and of the
frame; where the one block begins, and the bytes after its own length."""
BEGIN: Final = 20
SHUFFLED_ZSTD: Final = 0x91
"""The planes of a block in one piece: to begin with one takes a decoder a twentieth of a chunk's time."""


class ChunkEncoder:
    """Encodes the chunks of one array as its metadata say; threads may share it.

    Args:
        layout: A plan of ``codecs``.
    """

    def __init__(self, layout: Layout) -> None:
        _, rows, channels = layout.chunks
        self._turned = bool(layout.filters)
        self._shape = (channels, rows) if self._turned else (rows, channels)
        if layout.repeats:
            self._search = FAR
        elif self._turned and rows >= MANY_ROWS:
            self._search = {**COUNTED, BLOCK: min(CHANNELS * rows, MOST_BLOCK)}
        else:
            self._search = NEAR
        self._desks: list[_Desk] = []

    def __call__(self, raw: Raw) -> bytes:
        """One chunk and its checksum.

        Args:
            raw: raw ``[rows, channels]``, always of one type. Rows that a chunk has beyond them are NaN.
        """
        # bfloat16 is the high half of a float32, whose low half is zero.
        words = raw if raw.dtype == np.uint16 else raw.astype(np.float32, copy=False).view(np.uint32)
        desk = self._desks.pop() if self._desks else _Desk(self._shape, words.dtype, self._search)
        parts = desk.encode(words, turned=self._turned)
        self._desks.append(desk)
        return b"".join((*parts, crc32c(*parts)))


class _Desk:
    """What one thread works with, used again: fresh pages cost as much as what is done in them."""

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[Any], search: Search) -> None:
        self._repeats = search is FAR
        self._words = np.empty(shape, dtype)
        self._planes = np.zeros((ITEM, self._words.size), np.uint8)
        self._coder = zstd.ZstdCompressor(options=search)
        self._keeper = zstd.ZstdCompressor(options=KEPT)
        self._zeros = self._compress(self._planes[0])

    def encode(self, words: np.ndarray, *, turned: bool) -> list[bytes]:
        """The parts of the frame of ``[rows, channels]``, whose channels stand end to end if ``turned``."""
        if turned or len(words) < len(self._words):
            self._fill(self._words.T if turned else self._words, words)
            words = self._words
        zeros = ITEM - words.itemsize
        for number, plane in enumerate(self._planes[zeros:]):
            np.right_shift(words.reshape(-1), 8 * number, out=plane, casting="unsafe")
        mantissas = [self._mantissas(plane) for plane in self._planes[zeros:-1]]
        # zstd takes frames that follow each other for one.
        parts = [*[self._zeros] * zeros, *mantissas, self._compress(self._planes[-1])]
        values, block = self._planes.size, sum(map(len, parts))
        if block >= values:  # Blosc takes a block as long as its planes for the planes themselves.
            parts, block = [self._planes.tobytes()], values
        size = HEADER.size + block
        return [HEADER.pack(2, 1, SHUFFLED_ZSTD, ITEM, values, values, size, BEGIN, block), *parts]

    @staticmethod
    def _fill(room: np.ndarray, words: np.ndarray) -> None:
        for start in range(0, len(words), STRIP):
            strip = words[start : start + STRIP]
            room[start : start + len(strip)] = strip
        room[len(words) :] = NAN >> (32 - 8 * words.itemsize)

    def _mantissas(self, plane: np.ndarray) -> bytes:
        sample = plane[: plane.size // SAMPLE]
        hopeless = not self._repeats and len(_frame(self._coder, sample)) >= WORTH * sample.size
        return _frame(self._keeper, plane) if hopeless else self._compress(plane)

    def _compress(self, plane: np.ndarray) -> bytes:
        packed = _frame(self._coder, plane)
        return packed if len(packed) < WORTH * plane.size else _frame(self._keeper, plane)


def _frame(compressor: zstd.ZstdCompressor, plane: np.ndarray) -> bytes:
    return compressor.compress(plane.data, compressor.FLUSH_FRAME)
