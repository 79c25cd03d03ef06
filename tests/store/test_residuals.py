"""Residuals read straight from shards: what zarr reads, and what is refused."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builds import small_shards
from tests.support.rewrite import sealed_again
from tests.support.rows import expected, write_store
from wif_store.errors import DamageError
from wif_store.format.chunks import crc32c, index_bytes
from wif_store.format.metadata import layouts_of
from wif_store.format.schema import FINAL_TOKEN, SEQUENCE
from wif_store.storage import LocalStorage
from wif_store.store import residuals
from wif_store.store.reader import open_store
from wif_store.store.residuals import ResidualArray

LENGTHS = {"train": [9, 30, 2, 17, 25, 8, 1, 3, 40, 12, 33, 2], "validation": [1, 1], "test": [64, 64]}
SHARD = f"train/{SEQUENCE}/c/0/1/0"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A store of several shards and chunks, the last of each cut off by the array's end."""
    folder = tmp_path_factory.mktemp("residuals") / "s.zarr"
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        return folder, write_store(folder, LENGTHS)


@pytest.fixture
def copy(monkeypatch, tmp_path):
    """Such a store, for a test to damage."""
    small_shards(monkeypatch)
    write_store(tmp_path / "s.zarr", LENGTHS)
    return tmp_path / "s.zarr"


def array_of(folder, path):
    """One array of residuals of a store with small shards."""
    manifest = open_store(folder).manifest
    return ResidualArray(LocalStorage(folder), path, layouts_of(manifest)[path], manifest.files)


@settings(max_examples=60, deadline=None)
@given(
    path=st.sampled_from(sorted(f"{split}/{name}" for split in LENGTHS for name in (FINAL_TOKEN, SEQUENCE))),
    ends=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    layers=st.lists(st.integers(0, 1), min_size=1, max_size=3),
    span=st.sampled_from([1, 300, 10**9]),
    threads=st.sampled_from([1, 3]),
)
def test_any_rows_are_what_zarr_reads(path, ends, layers, span, threads, written):
    values = zarr.open_group(written[0], mode="r")[path]
    start, stop = (min(end, values.shape[1]) for end in sorted(ends))
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        patch.setattr(LocalStorage, "span", span)
        patch.setattr(residuals, "_threads", lambda: threads)
        read = array_of(written[0], path).read(layers, start, stop)
    np.testing.assert_array_equal(read, np.stack([values[layer, start:stop] for layer in layers]))


def test_values_of_a_channel_are_next_to_each_other_where_they_are_so_on_disk(written, monkeypatch):
    small_shards(monkeypatch)
    folder, records = written
    final, _ = open_store(folder).read_final_token(5, "train")
    assert final.strides[0] == 4
    np.testing.assert_array_equal(final, [sequence[-1] for sequence in expected(records["train"], 1)])
    sequence, _ = open_store(folder).read_sequences(5, "train")
    assert sequence.flags.c_contiguous


def test_chunks_that_follow_each_other_are_one_request(copy, reads, monkeypatch):
    array = array_of(copy, f"train/{SEQUENCE}")
    monkeypatch.setattr(LocalStorage, "span", 10**9)
    reads.clear()
    for _ in range(2):
        array.read([1], 65, 127)
    # The index once, and its chunks in one range each time.
    assert [name for name, _ in reads] == [SHARD] * 3
    assert reads[1] == reads[2]
    reads.clear()
    monkeypatch.setattr(LocalStorage, "span", 1)
    array.read([1], 65, 127)
    assert len(reads) == 8  # a chunk is 8 tokens


def test_only_the_chunks_that_are_asked_for_are_read(copy, reads):
    array = array_of(copy, f"train/{SEQUENCE}")
    array.read([0], 0, 1)
    reads.clear()
    array.read([0], 8, 16)
    array.read([0], 9, 10)
    [(_, one), (_, other)] = reads
    assert one == other


def index_of(content):
    count = 2 * 8  # two layers of a shard of 64 tokens
    return np.frombuffer(content[-index_bytes(count) : -4], "<u8").reshape(-1, 2).copy()


def resealed(content, index):
    return content[: -index.nbytes - 4] + index.tobytes() + crc32c(index.tobytes())


def with_index(change):
    def damage(content):
        index = index_of(content)
        change(index)
        return resealed(content, index)

    return damage


def put(at, value):
    def change(index):
        index[at] = value

    return change


def swap(index):
    """Two chunks of one size, or nearly so, change their names."""
    index[[9, 10]] = index[[10, 9]]


def says(at, value):
    """A chunk whose header says another size, under a checksum that fits."""

    def damage(content):
        offset, length = index_of(content)[9].tolist()
        chunk = bytearray(content[offset : offset + length])
        chunk[at : at + 4] = value.to_bytes(4, "little")
        chunk[-4:] = crc32c(bytes(chunk[:-4]))
        return content[:offset] + bytes(chunk) + content[offset + length :]

    return damage


NOT_NAMED = "is not the one that the manifest names"
DAMAGE = {
    "a chunk that is missing": (with_index(put(9, 2**64 - 1)), "lacks a chunk"),
    "a chunk far away": (with_index(put((9, 0), 2**40)), "points where no chunk can be"),
    "a chunk before the file": (with_index(put((9, 0), 2**64 - 5)), "points where no chunk can be"),
    "a chunk of nothing": (with_index(put((9, 1), 0)), "points where no chunk can be"),
    "a chunk into the index": (with_index(put((9, 1), 2**20)), "points where no chunk can be"),
    "a chunk a byte shorter": (with_index(lambda index: put((9, 1), index[9, 1] - 1)(index)), NOT_NAMED),
    "two chunks swapped": (with_index(swap), NOT_NAMED),
    "a chunk that stands twice": (with_index(lambda index: put(9, index[10])(index)), NOT_NAMED),
    "a chunk of another layer": (with_index(lambda index: put(9, index[1])(index)), NOT_NAMED),
    "a chunk that says it holds gigabytes": (says(4, 2**31 - 2), NOT_NAMED),
    "a chunk whose blocks are larger": (says(8, 2**31 - 2), NOT_NAMED),
    "an index without its checksum": (lambda content: content[:-1] + b"\0", "does not have its checksum"),
    "a changed byte": (
        lambda content: content.replace(content[-2000:-1990], b"\0" * 10, 1),
        "does not have its checksum",
    ),
    "an empty file": (lambda content: b"", "does not have its checksum"),
    "half of a file": (lambda content: content[: len(content) // 2], "does not have its checksum"),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("span", [1, 10**9])
def test_damage_and_lies_are_refused(case, span, copy, monkeypatch):
    """In a shard that changes after the store was opened: its size may be right."""
    damage, message = DAMAGE[case]
    monkeypatch.setattr(LocalStorage, "span", span)
    opened = open_store(copy)
    path = copy / SHARD
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    with pytest.raises(DamageError, match=f"train/sequence cannot be read .*{message}"):
        opened.read_sequences(5, "train")
    opened.read_sequences(5, "test")
    opened.read_final_token(5)


@pytest.mark.parametrize("at", [4, 8, 12])
def test_a_chunk_that_lies_is_refused_though_the_manifest_names_it(at, copy, monkeypatch):
    """As a stranger writes it: checksum, manifest and SHA-256 fit."""
    path = copy / SHARD
    path.write_bytes(says(at, 2**31 - 2)(path.read_bytes()))
    sealed_again(copy)
    with pytest.raises(DamageError, match=r"train/sequence cannot be read \(a chunk says "):
        open_store(copy).read_sequences(5, "train")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_who_has_read_may_fork_and_read(copy, monkeypatch):
    monkeypatch.setattr(residuals, "_threads", lambda: 2)
    residuals._pool.cache_clear()
    opened = open_store(copy)
    values = opened.read_sequences(3)[0]
    child = os.fork()
    if not child:
        signal.alarm(20)
        os._exit(not np.array_equal(opened.read_sequences(3)[0], values))
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_reads_on_after_a_failure(copy, monkeypatch):
    monkeypatch.setattr(residuals, "_threads", lambda: 2)
    opened, fill, filling = open_store(copy), ResidualArray._fill, []

    def slow_or_broken(self, values, run, *rest):
        if threading.current_thread() is threading.main_thread():
            msg = "broken"
            raise ValueError(msg)
        filling.append(run)
        time.sleep(0.25)
        fill(self, values, run, *rest)
        filling.remove(run)

    monkeypatch.setattr(ResidualArray, "_fill", slow_or_broken)
    with pytest.raises(DamageError, match="broken"):
        opened.read_sequences(3)
    assert not filling
