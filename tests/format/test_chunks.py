"""A chunk is what its array's metadata say, to the bit, and what Blosc's own decoder takes for its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.blosc import Blosc

from wif_store import codecs
from wif_store.format.chunks import ChunkEncoder
from wif_store.records import widen

DTYPES = (np.uint16, np.float32, np.float16)
WIDTH = 64


def some(rows, channels, dtype, seed=0):
    """Numbers as residuals are: each channel has a scale of its own."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, channels)) * np.exp(rng.standard_normal(channels))
    if dtype == np.uint16:
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(dtype)


def layout(rows, channels, *, turned=False, repeats=False):
    transpose = codecs.final_token_layout(channels, rows).filters if turned else ()
    return codecs.Layout((1, rows, channels), None, transpose, codecs.blosc(4 * rows * channels, 4), repeats)


def decoded(chunk, plan):
    """The values of a chunk, by Blosc's own decoder."""
    frame, checksum = chunk[:-4], chunk[-4:]
    assert codecs.crc32c(frame) == checksum
    _, rows, channels = plan.chunks
    values = np.frombuffer(Blosc().decode(frame), np.float32)
    return values.reshape(channels, rows).T if plan.filters else values.reshape(rows, channels)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 300),
    channels=st.integers(1, 40),
    missing=st.integers(0, 299),
    dtype=st.sampled_from(DTYPES),
    turned=st.booleans(),
    repeats=st.booleans(),
    bits=st.booleans(),
)
def test_every_chunk_comes_back_to_the_bit(rows, channels, missing, dtype, turned, repeats, bits):
    plan = layout(rows, channels, turned=turned, repeats=repeats)
    raw = some(rows, channels, dtype)
    if bits:  # whatever they are: infinities and every NaN too
        raw = np.random.default_rng(1).bytes(raw.nbytes)
        raw = np.frombuffer(raw, dtype).reshape(rows, channels)
        raw = raw if dtype != np.float16 else np.nan_to_num(raw)
    raw = raw[: max(1, rows - missing)]
    encode = ChunkEncoder(plan)
    encode(some(rows, channels, dtype, seed=2))  # its memory is not fresh
    found = decoded(encode(raw), plan)
    np.testing.assert_array_equal(found[: len(raw)].view(np.uint32), widen(raw).view(np.uint32))
    assert np.isnan(found[len(raw) :]).all()


@pytest.mark.parametrize("rows", [1, 7, 8, 1024])
def test_a_frame_says_of_itself_what_blosc_says(rows):
    plan = layout(rows, 16)
    raw = some(rows, 16, np.uint16)
    ours = ChunkEncoder(plan)(raw)[:-4]
    its = Blosc("zstd", 1, Blosc.SHUFFLE, blocksize=4 * raw.size, typesize=4).encode(widen(raw))
    assert numcodecs.blosc.cbuffer_complib(ours) == "Zstd"
    sizes = [int.from_bytes(ours[at : at + 4], "little") for at in (4, 8, 12)]
    assert sizes == [4 * raw.size, 4 * raw.size, len(ours)]
    if rows > 8:  # it leaves little ones as they are
        assert ours[:2] + ours[3:12] == its[:2] + its[3:12]


@pytest.mark.parametrize(("turned", "rows", "times"), [(False, 512, 2), (True, 256, 2), (True, 1024, 1)])
def test_it_is_smaller_than_blosc_makes_it(turned, rows, times):
    # Many final tokens are not searched for those that come again: there are none.
    raw = np.concatenate([some(rows, WIDTH, np.uint16)] * times)
    plan = layout(*raw.shape, turned=turned, repeats=not turned)
    its = Blosc("zstd", 1, Blosc.SHUFFLE, blocksize=4 * raw.size, typesize=4)
    values = widen(raw)
    assert len(ChunkEncoder(plan)(raw)) < len(
        its.encode(np.ascontiguousarray(values.T if turned else values))
    )


def test_bytes_of_few_channels_are_counted_together():
    # One bit of sign, one exponent a channel: two channels take two bits a value, 64 would take seven.
    rows = 4096
    exponents = np.arange(WIDTH, dtype=np.uint16) << 8
    signs = np.random.default_rng(0).integers(0, 2, (rows, WIDTH), dtype=np.uint16) << 15
    assert len(ChunkEncoder(layout(rows, WIDTH, turned=True))(signs | exponents)) < 0.26 * rows * WIDTH


def test_channels_that_hardly_change_cost_next_to_nothing_where_rows_are_few():
    rows = 300
    raw = np.tile(np.arange(WIDTH, dtype=np.uint16) << 8, (rows, 1))
    assert len(ChunkEncoder(layout(rows, WIDTH, turned=True))(raw)) < 1 / 16 * rows * WIDTH


def test_rows_that_come_again_cost_nothing_where_they_are_looked_for():
    raw = some(512, WIDTH, np.uint16)
    once = len(ChunkEncoder(layout(512, WIDTH, repeats=True))(raw))
    twice = len(ChunkEncoder(layout(1024, WIDTH, repeats=True))(np.concatenate([raw, raw])))
    assert twice < 1.02 * once


def test_threads_share_an_encoder():
    plan = layout(256, WIDTH, turned=True)
    raws = [some(256 - i, WIDTH, np.uint16, seed=i) for i in range(24)]
    encode = ChunkEncoder(plan)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(encode, raws))
    assert together == [ChunkEncoder(plan)(raw) for raw in raws]
