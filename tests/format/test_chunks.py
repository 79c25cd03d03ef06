"""Chunks and shards as bytes: what comes back, what Blosc and zarr make of them, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.blosc import Blosc

from wif_store.format.chunks import (
    CHECKSUM,
    ChunkError,
    crc32c,
    decode,
    encode,
    index_bytes,
    read_index,
    shard_file,
)
from wif_store.records import widen


def residuals(rows, channels, seed=0):
    """bfloat16 values as residuals are, in float32: each channel has a scale of its own."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, channels)) * np.exp(rng.standard_normal(channels))
    return widen((values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16))


def decoded(chunk, shape, dtype=np.float32):
    out = np.empty(shape, dtype)
    decode(np.frombuffer(chunk, np.uint8), out)
    return out


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 300),
    channels=st.integers(1, 40),
    dtype=st.sampled_from(["<f4", "<i8", "<i4", "i1"]),
)
def test_every_chunk_comes_back_to_the_bit(rows, channels, dtype):
    # Whatever the bits are: infinities and every NaN too.
    size = rows * channels * np.dtype(dtype).itemsize
    values = np.frombuffer(np.random.default_rng(rows).bytes(size), dtype).reshape(rows, channels)
    found = decoded(encode(values), values.shape, dtype)
    assert found.tobytes() == values.tobytes()


@pytest.mark.parametrize("rows", [1, 9, 1024])
def test_a_chunk_is_one_block_of_blosc_and_its_checksum(rows):
    values = residuals(rows, 16)
    chunk = encode(values)
    frame, checksum = chunk[:-CHECKSUM], chunk[-CHECKSUM:]
    assert crc32c(frame) == checksum
    assert numcodecs.blosc.cbuffer_complib(frame) == "Zstd"
    held, block, stored = (int.from_bytes(frame[at : at + 4], "little") for at in (4, 8, 12))
    assert (held, block, stored) == (values.nbytes, values.nbytes, len(frame))
    assert bytes(Blosc().decode(frame)) == values.tobytes()


def test_one_block_is_smaller_than_the_blocks_that_blosc_would_choose():
    values = np.ascontiguousarray(residuals(1024, 128).T)
    assert len(encode(values)) < 0.95 * len(Blosc("zstd", 1, Blosc.SHUFFLE).encode(values))


def test_threads_encode_the_same_bytes():
    every = [residuals(200 - i, 64, seed=i) for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(encode, every)) == [encode(values) for values in every]


def fitting(frame):
    """A frame with the checksum that fits it."""
    return bytes(frame) + crc32c(bytes(frame))


def says(at, size):
    """The header of the frame says another size: of the chunk, of a block, or of the frame."""

    def lie(chunk):
        return fitting(chunk[:at] + size.to_bytes(4, "little") + chunk[at + 4 : -CHECKSUM])

    return lie


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda chunk: chunk[:20] + bytes([chunk[20] ^ 1]) + chunk[21:], "does not have its checksum"),
        (lambda chunk: chunk[:-1] + bytes([chunk[-1] ^ 1]), "does not have its checksum"),
        (lambda chunk: chunk[:-9], "does not have its checksum"),
        (lambda chunk: b"", "does not have its checksum"),
        (lambda chunk: fitting(b"\x02\x01"), "does not have its checksum"),
        (says(4, 2**31 - 2), r"says that .*\[2147483646, 4096, \d+\]; expected \[4096, 4096, "),
        (says(4, 0), r"says that .*\[0, 4096, "),
        (says(8, 1), r"says that .*\[4096, 1, "),
        (says(12, 2**20), r"says that .*\[4096, 4096, 1048576\]"),
        (lambda chunk: fitting(chunk[:16] + b"\xff" * (len(chunk) - 20)), "cannot be decoded"),
        (lambda chunk: fitting(b"\xff" * 3 + chunk[3:-CHECKSUM]), "cannot be decoded"),
        (lambda chunk: fitting(chunk[:3] + b"\x01" + chunk[4:-CHECKSUM]), "says that it has"),
    ],
)
def test_a_chunk_that_is_not_what_was_written_is_refused(change, message):
    chunk = encode(residuals(64, 16))
    with pytest.raises(ChunkError, match=message):
        decoded(change(chunk), (64, 16))


def test_a_shard_is_its_chunks_and_an_index_that_finds_them():
    chunks = [encode(residuals(8, 4, seed=i)) for i in range(3)]
    given_chunks = [chunks[0], None, chunks[1], chunks[2], None]
    checksums = []
    content = b"".join(shard_file(given_chunks, 5, checksums))
    end = len(content) - index_bytes(5)
    index = read_index(content[end:], 5, end)
    assert index[[1, 4]].tolist() == [[-1, -1]] * 2
    for (offset, length), chunk in zip(index.tolist(), given_chunks, strict=True):
        if chunk is not None:
            assert content[offset : offset + length] == chunk
    assert checksums == ["0" * 8 if c is None else c[-CHECKSUM:].hex() for c in given_chunks]


@pytest.mark.parametrize("given_chunks", [[], [b"x" * 30]])
def test_a_shard_has_as_many_chunks_as_it_says(given_chunks):
    with pytest.raises(ValueError, match=rf"a shard of 2 chunks was given {len(given_chunks)}"):
        list(shard_file(given_chunks, 2))


def sealed(places):
    content = np.array(places, "<u8").tobytes()
    return content + crc32c(content)


@pytest.mark.parametrize(
    "content",
    [
        sealed([[0, 30], [30, 71]]),  # beyond the end
        sealed([[2**40, 30], [30, 30]]),
        sealed([[0, 30], [2**64 - 2, 30]]),
        sealed([[0, 30], [30, 2**63]]),
        sealed([[0, 30], [30, 20]]),  # too short for a header and a checksum
        sealed([[0, 30], [30, 0]]),
    ],
)
def test_an_index_that_points_where_no_chunk_can_be_is_refused(content):
    with pytest.raises(ChunkError, match="points where no chunk can be"):
        read_index(content, 2, 100)


@pytest.mark.parametrize("cut", [1, 4, 16, 36])
def test_an_index_without_its_checksum_is_refused(cut):
    content = sealed([[0, 30], [30, 70]])
    assert read_index(content, 2, 100).tolist() == [[0, 30], [30, 70]]
    for other in (content[:-cut], b"\0" * cut + content[cut:], content + b"\0" * cut):
        if other != content:
            with pytest.raises(ChunkError, match="index of a shard does not have its checksum"):
                read_index(other, 2, 100)
