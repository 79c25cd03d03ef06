"""Residuals read straight from shards: what zarr reads, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_store import SMALL, write
from wif_store import codecs, direct, writer
from wif_store.format.layout import crc32c
from wif_store.store.residuals import DirectArray
from wif_store.errors import DamageError
from wif_store.storage import LocalStorage
from wif_store.records import widen
from wif_store.format.schema import FINAL_TOKEN, SEQUENCE
from wif_store.store.reader import open_store

LENGTHS = [9, 30, 2, 17, 25, 8, 1, 3, 40, 11]
SHARD = "sequence/c/1/0/0"


def padded(d_model, examples):
    """One shard whose two chunks have more rows than there are examples, as there once were."""
    rows, channels = 4 * -(-examples // 4), d_model // 2
    plan = codecs.final_token_layout(d_model, examples)
    return replace(
        plan,
        chunks=(1, rows, channels),
        shards=(1, rows, d_model),
        compressors=codecs.blosc(4 * rows * channels, 4),
    )


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of several shards and chunks, the last of each cut off by the array's end."""
    for name, value in SMALL.items():
        monkeypatch.setattr(codecs, name, value)
    write(tmp_path, LENGTHS)
    return tmp_path / "s.zarr"


@pytest.fixture(
    scope="module",
    params=[codecs.final_token_layout, padded],
    ids=["several shards", "padded chunks of all rows"],
)
def kept(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(codecs, name, value)
        patch.setattr(writer, "final_token_layout", request.param)
        folder = tmp_path_factory.mktemp("direct")
        write(folder, LENGTHS)
    return folder / "s.zarr"


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([FINAL_TOKEN, SEQUENCE]),
    ends=st.tuples(st.integers(0, sum(LENGTHS)), st.integers(0, sum(LENGTHS))),
    layers=st.lists(st.integers(0, 1), min_size=1, max_size=3),
    span=st.sampled_from([1, 300, 10**9]),
    threads=st.sampled_from([1, 3]),
)
def test_any_rows_are_what_zarr_reads(name, ends, layers, span, threads, kept):
    values = zarr.open_group(kept, mode="r")[name]
    start, stop = (min(end, values.shape[1]) for end in sorted(ends))
    opened = open_store(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStorage, "span", span)
        patch.setattr(direct, "THREADS", threads)
        read = opened._residuals(name, layers, slice(start, stop))
    np.testing.assert_array_equal(read, np.stack([values[layer, start:stop] for layer in layers]))


@pytest.mark.parametrize(("layout", "held"), [(codecs.final_token_layout, 10), (padded, 12)])
def test_a_layer_of_final_tokens_is_decoded_in_its_place(layout, held, tmp_path, monkeypatch):
    for name, value in {**SMALL, "EXAMPLES_PER_CHUNK": 16}.items():
        monkeypatch.setattr(codecs, name, value)
    monkeypatch.setattr(writer, "final_token_layout", layout)
    records = write(tmp_path, LENGTHS)
    array = open_store(tmp_path / "s.zarr")._direct[FINAL_TOKEN]
    monkeypatch.setattr(direct, "THREADS", 1)
    array._rooms.append(np.zeros(array._room_shape, np.float32))
    values = array.read([1], 0, len(records))[0]
    np.testing.assert_array_equal(values, np.stack([widen(r.final_token[1]) for r in records]))
    # In several chunks, their padding with them, and nothing went by way of the room.
    assert array._across > 1
    assert values.strides == (4, 4 * held)
    assert not array._rooms[0].any()


def test_chunks_that_follow_each_other_are_one_request(store, monkeypatch):
    opened = open_store(store)
    ranges = []
    read = LocalStorage.read

    def noting(self, name, start=0, stop=None):
        ranges.append((name, start, stop))
        return read(self, name, start, stop)

    monkeypatch.setattr(LocalStorage, "read", noting)
    monkeypatch.setattr(LocalStorage, "span", 10**9)
    for _ in range(2):
        opened._residuals(SEQUENCE, [1], slice(1, 15))
    # The index once, and its chunks in one range each time.
    assert [name for name, *_ in ranges] == [SHARD] * 3
    assert ranges[1] == ranges[2]


def test_another_layout_is_left_to_zarr(store):
    arrays = json.loads((store / "zarr.json").read_bytes())["consolidated_metadata"]["metadata"]
    assert all(DirectArray.understands(arrays[name]) for name in (FINAL_TOKEN, SEQUENCE))
    assert not DirectArray.understands(arrays["gold"])
    for change in (
        lambda inner: inner.update(index_location="start"),
        lambda inner: inner["index_codecs"].pop(),
        lambda inner: inner["codecs"].pop(),
        lambda inner: inner["codecs"].insert(0, {"name": "transpose", "configuration": {"order": [1, 0, 2]}}),
        lambda inner: inner["codecs"][0]["configuration"].update(endian="big"),
        lambda inner: inner.update(chunk_shape=[2, 4, 16]),
    ):
        array = json.loads(json.dumps(arrays[SEQUENCE]))
        change(array["codecs"][0]["configuration"])
        assert not DirectArray.understands(array)
    opened = open_store(store)
    want = opened.read_sequences(5, "train")[0]
    opened._direct = {}
    np.testing.assert_array_equal(opened.read_sequences(5, "train")[0], want)


def index_of(content, chunks):
    return np.frombuffer(content[-16 * chunks - 4 : -4], "<u8").reshape(-1, 2).copy()


def resealed(content, index):
    return content[: -index.nbytes - 4] + index.tobytes() + crc32c(index.tobytes())


def chunk_missing(content, chunks):
    index = index_of(content, chunks)
    index[1] = 2**64 - 1
    return resealed(content, index)


def chunk_elsewhere(content, chunks):
    index = index_of(content, chunks)
    index[1, 0] = 2**40
    return resealed(content, index)


def two_chunks_swapped(content, chunks):
    index = index_of(content, chunks)
    index[1, 1] -= 1
    return resealed(content, index)


def declares_more(content, chunks):
    """A chunk that says it holds gigabytes, under a checksum that fits."""
    offset, length = index_of(content, chunks)[0].tolist()
    chunk = bytearray(content[offset : offset + length])
    chunk[4:8] = (2**31 - 2).to_bytes(4, "little")
    chunk[-4:] = crc32c(bytes(chunk[:-4]))
    return bytes(chunk) + content[offset + length :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (chunk_missing, "points where no chunk can be"),
        (chunk_elsewhere, "points where no chunk can be"),
        (two_chunks_swapped, "a chunk of sequence/c/1/0/0 does not have its checksum"),
        (declares_more, "says it holds 2147483646"),
        (lambda content, chunks: content[:-1] + b"\0", "the index of .* does not have its checksum"),
        (lambda content, chunks: b"\0" + content[1:], "a chunk of .* does not have its checksum"),
    ],
)
@pytest.mark.parametrize("span", [1, 10**9])
def test_damage_and_lies_are_refused(damage, message, span, store, monkeypatch):
    monkeypatch.setattr(LocalStorage, "span", span)
    opened = open_store(store)
    array = opened._direct[SEQUENCE]
    path = store / SHARD
    path.write_bytes(damage(path.read_bytes(), array._shard // array._step))
    with pytest.raises(DamageError, match=f"sequence cannot be read .*{message}"):
        opened.read_sequences(5)
    opened.read_sequences(3)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_who_has_read_may_fork_and_read(store, monkeypatch):
    monkeypatch.setattr(direct, "THREADS", 2)
    opened = open_store(store)
    values = opened.read_sequences(3)[0]
    child = os.fork()
    if not child:
        signal.alarm(20)
        os._exit(not np.array_equal(opened.read_sequences(3)[0], values))
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_reads_on_after_a_failure(store, monkeypatch):
    monkeypatch.setattr(direct, "THREADS", 4)
    opened, fill, filling = open_store(store), DirectArray._fill, []

    def slow_or_broken(self, values, run, *rest):
        if threading.current_thread() is threading.main_thread():
            msg = "broken"
            raise ValueError(msg)
        filling.append(run)
        time.sleep(0.05)
        fill(self, values, run, *rest)
        filling.remove(run)

    monkeypatch.setattr(DirectArray, "_fill", slow_or_broken)
    with pytest.raises(DamageError, match="broken"):
        opened.read_sequences(3)
    assert not filling
