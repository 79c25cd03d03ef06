"""Chunks of residuals, from the model's own type to compressed float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numcodecs.blosc import SHUFFLE, Blosc

from wif_store.codecs import crc32c

if TYPE_CHECKING:
    from wif_store.codecs import Layout
    from wif_store.records import Raw
    from wif_store.schema import Float32

STRIP: Final = 128
"""Rows that are turned at once: numpy alone goes through all of them for each channel, which is slower."""


class ChunkEncoder:
    """Encodes the chunks of one array byte for byte as zarr does by the same plan; threads may share it.

    Args:
        layout: A plan of ``codecs``.
    """

    def __init__(self, layout: Layout) -> None:
        _, rows, channels = layout.chunks
        self._turned = bool(layout.filters)
        self._shape = (channels, rows) if self._turned else (rows, channels)
        # Where chunks are widened, in the same memory each time: fresh pages cost as much as widening.
        self._rooms: list[Float32] = []

    def __call__(self, raw: Raw) -> bytes:
        """One chunk and its checksum.

        Args:
            raw: raw ``[rows, channels]``, always of one type. Rows that a chunk has beyond them are NaN.
        """
        room = self._rooms.pop() if self._rooms else np.zeros(self._shape, np.float32)
        # bfloat16 is the high half of a float32, whose low half stays zero.
        halves = room.view(np.uint16)[:, 1::2] if raw.dtype == np.uint16 else room
        values, into = (room.T, halves.T) if self._turned else (room, halves)
        strip = STRIP if self._turned else len(values)
        for start in range(0, len(raw), strip):
            stop = min(start + strip, len(raw))
            into[start:stop] = raw[start:stop]
        values[len(raw) :] = np.nan
        packed = Blosc("zstd", 1, SHUFFLE, blocksize=room.nbytes, typesize=4).encode(room)
        self._rooms.append(room)
        return bytes(packed) + crc32c(packed)
