"""How arrays are cut into chunks and shards and compressed: the measured plan of docs/format.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs.blosc import SHUFFLE, Blosc
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec

if TYPE_CHECKING:
    from wif_store.schema import Float32

# Blosc shuffles a chunk into one plane per byte of the float; zstd compresses a plane best in whole
# blocks of its own size, and from about half a MiB on.
ZSTD_BLOCK = 128 * 2**10
SMALLEST_PLANE = 512 * 2**10
SHARD_BYTES = 576 * 2**20
EXAMPLES_PER_CHUNK = 1024
STRIP = 16
"""Values of each row that are written at once where a chunk is turned: a cache line."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Chunk and shard shapes of one array, and the codecs of its inner chunks."""

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    filters: tuple[Any, ...]
    compressors: tuple[Any, ...]

    @property
    def outer(self) -> tuple[int, ...]:
        """The shape of one file."""
        return self.shards or self.chunks


def blosc(chunk_bytes: int, typesize: int) -> tuple[Any, ...]:
    """Byte shuffle and zstd-1 over the chunk as one block, then a checksum.

    One block per chunk is the point: Blosc's automatic block size stores 0.80 of raw bfloat16 where
    this stores 0.68. The CRC32C makes every read of damaged bytes raise.
    """
    return (
        BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=typesize, blocksize=chunk_bytes),
        Crc32cCodec(),
    )


def tokens_per_chunk(d_model: int) -> int:
    """The fewest tokens whose byte planes are whole zstd blocks and at least ``SMALLEST_PLANE``."""
    step = ZSTD_BLOCK // math.gcd(d_model, ZSTD_BLOCK)
    return step * math.ceil(SMALLEST_PLANE / (step * d_model))


def sequence_layout(d_model: int, tokens: int) -> Layout:
    """Plan for ``[sequence_layer, token, d_model]``: shards of at most ``SHARD_BYTES`` uncompressed."""
    chunk = min(tokens_per_chunk(d_model), max(1, tokens))
    most = max(1, SHARD_BYTES // (4 * d_model * chunk))
    shard = chunk * min(most, math.ceil(max(1, tokens) / chunk))
    return Layout((1, chunk, d_model), (1, shard, d_model), (), blosc(4 * chunk * d_model, 4))


def final_token_layout(d_model: int, examples: int) -> Layout:
    """Plan for ``[layer, example, d_model]``: a layer is one shard; channel-major inside its chunks."""
    chunk = min(EXAMPLES_PER_CHUNK, examples)
    shard = chunk * math.ceil(examples / chunk)
    # Channels differ more than examples do, so each channel's values are laid end to end.
    transpose = TransposeCodec(order=(0, 2, 1))
    return Layout((1, chunk, d_model), (1, shard, d_model), (transpose,), blosc(4 * chunk * d_model, 4))


def encode_chunk(values: Float32, layout: Layout) -> bytes:
    """A chunk of residuals, byte for byte as zarr encodes it by the same plan; it lets other threads run.

    Args:
        values: float32 ``[rows, d_model]``, at most as many rows as a chunk has; the rest is NaN.
        layout: A plan of this module.
    """
    _, rows, width = layout.chunks
    if len(values) < rows:
        whole = np.full((rows, width), np.nan, np.float32)
        whole[: len(values)] = values
        values = whole
    if layout.filters:
        turned = np.empty((width, rows), np.float32)
        copy_turned(values, turned)
        values = turned
    packed = Blosc("zstd", 1, SHUFFLE, blocksize=4 * rows * width, typesize=4).encode(values)
    return bytes(packed) + crc32c(packed)


def copy_turned(source: Float32, out: Float32) -> None:
    """Copy ``[m, n]`` into ``[n, m]``: numpy alone writes a value to each row in turn, which is slower."""
    for start in range(0, len(source), STRIP):
        out[:, start : start + STRIP] = source[start : start + STRIP].T


def crc32c(content: bytes | np.ndarray) -> bytes:
    """The checksum as it follows what it is of."""
    return int(google_crc32c.value(content)).to_bytes(4, "little")
