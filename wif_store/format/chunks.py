"""Chunks and shards as bytes: numpy values to Blosc frames and back, and the index of a shard.

A chunk is what numcodecs' Blosc makes of it (byte shuffle and zstd, the chunk as one block), followed by its
CRC32C. A shard is its chunks end to end, then an index with the offset and length of each, and the CRC32C of
the index. Any reader of Zarr version 3 knows both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import google_crc32c
import numpy as np
from numcodecs.blosc import SHUFFLE, Blosc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LEVEL: Final = 1
"""Of zstd: higher ones take many times as long for a hundredth of the bytes."""

MISSING: Final = 2**64 - 1
"""Offset and length of a chunk that a shard at the array's end does not have."""

CHECKSUM: Final = 4
"""Bytes of a CRC32C."""

HEADER: Final = 16
"""Bytes of the header of a Blosc frame: size of a value, of the chunk, of a block and of the frame."""


class ChunkError(ValueError):
    """A chunk or an index is not what was written."""


def encode(values: np.ndarray) -> bytes:
    """One chunk with its checksum.

    Args:
        values: The chunk's values, C-contiguous.
    """
    # One block a chunk is the point: Blosc's own choice of blocks stores 0.80 of raw bfloat16, this 0.68.
    codec = Blosc(cname="zstd", clevel=LEVEL, shuffle=SHUFFLE, blocksize=values.nbytes)
    frame = codec.encode(values)
    return bytes(frame) + crc32c(frame)


def decode(chunk: np.ndarray, out: np.ndarray) -> None:
    """Decode a chunk into ``out``, a C-contiguous array of the chunk's shape and type.

    Args:
        chunk: uint8 ``[length]``, the bytes of the chunk with its checksum.
        out: Where the values go.

    Raises:
        ChunkError: If the checksum is wrong, or the chunk holds another number of bytes.
    """
    frame = chunk[:-CHECKSUM]
    if len(frame) < HEADER or crc32c(frame) != chunk[-CHECKSUM:].tobytes():
        msg = "a chunk does not have its checksum"
        raise ChunkError(msg)
    # A frame says at its head how it is to be decoded, and Blosc believes it: one that lies about its own
    # length or blocks has Blosc read beyond it. What a chunk's head must say is known before it is decoded.
    typesize, sizes = int(frame[3]), np.frombuffer(frame[4:HEADER].tobytes(), "<u4").tolist()
    expected = [out.nbytes, out.nbytes, len(frame)]
    if typesize != out.itemsize or sizes != expected:
        msg = f"a chunk says that it has (bytes, bytes a block, bytes encoded) {sizes}; expected {expected}"
        raise ChunkError(msg)
    try:
        Blosc().decode(frame, out=out)
    except (RuntimeError, ValueError) as error:
        msg = f"a chunk cannot be decoded ({error})"
        raise ChunkError(msg) from None


def crc32c(*parts: Any) -> bytes:
    """The checksum of bytes that stand end to end, as it is stored after them."""
    value = 0
    for part in parts:
        value = google_crc32c.extend(value, part)
    return int(value).to_bytes(CHECKSUM, "little")


def index_bytes(count: int) -> int:
    """How many bytes the index of a shard of ``count`` chunks takes."""
    return 16 * count + CHECKSUM


def shard_file(
    chunks: Iterable[bytes | None], count: int, checksums: list[str] | None = None
) -> Iterator[bytes]:
    """The parts of a shard's file: its chunks, then its index.

    Args:
        chunks: The encoded chunks in their order; None for one that the shard does not have.
        count: How many there are.
        checksums: Gets the CRC32C of each chunk as 8 hex digits, 8 zeros where there is none.
    """
    index = np.full((count, 2), MISSING, "<u8")
    offset = number = 0
    for number, chunk in enumerate(chunks, 1):
        if chunk is not None:
            index[number - 1] = offset, len(chunk)
            offset += len(chunk)
            yield chunk
        if checksums is not None:
            checksums.append("0" * 8 if chunk is None else chunk[-CHECKSUM:].hex())
    if number != count:
        msg = f"a shard of {count} chunks was given {number}"
        raise ValueError(msg)
    content = index.tobytes()
    yield content + crc32c(content)


def read_index(content: bytes, count: int, end: int) -> np.ndarray:
    """The index of a shard.

    Args:
        content: The last ``index_bytes(count)`` bytes of the file.
        count: How many chunks the shard has.
        end: Where the index begins in the file: no chunk reaches beyond.

    Returns:
        int64 ``[count, 2]``: offset and length of each chunk, -1 where there is none.

    Raises:
        ChunkError: If it does not have its checksum, or points where no chunk can be.
    """
    if len(content) != index_bytes(count) or crc32c(content[:-CHECKSUM]) != content[-CHECKSUM:]:
        msg = "the index of a shard does not have its checksum"
        raise ChunkError(msg)
    # What is missing is the largest uint64, which is -1 here.
    index = np.frombuffer(content[:-CHECKSUM], "<i8").reshape(-1, 2)
    there = index[index[:, 0] != -1]
    if np.any(there < 0) or np.any(there.sum(1) > end) or np.any(there[:, 1] <= HEADER + CHECKSUM):
        msg = "the index of a shard points where no chunk can be"
        raise ChunkError(msg)
    return index
