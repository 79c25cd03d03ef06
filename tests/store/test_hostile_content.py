"""Bytes of a stranger's store: bombs, tables that are none, shards and files of other stores, pickles."""

from __future__ import annotations

import io
import math
import os
import pickle
import sys
from dataclasses import replace

import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.builds import settings, small_shards, source_of
from tests.support.fake_engine import FakeExtract, fake_engine
from tests.support.refusals import refused
from tests.support.rewrite import change_array, change_table, put, sealed_again, with_files
from tests.support.rows import write_store
from tests.support.stores import read_all
from wif_store.builder.journal import Journal
from wif_store.builder.pipeline import build_store
from wif_store.errors import BuildError, DamageError, StoreError, WifError
from wif_store.format.chunks import crc32c, index_bytes, read_index
from wif_store.format.metadata import layouts_of
from wif_store.format.table import arrow_schema
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store


@pytest.mark.parametrize(
    ("position", "value"), [(3, 0), (0, -5), (-1, 2**40), (1, 0), (2, 2**62), (0, 1), (-1, 7)]
)
def test_offsets_that_do_not_divide_the_tokens(position, value, store_copy):
    change_array(store_copy, "test/offsets", put(position, value))
    opened = open_store(store_copy)
    for read in (
        lambda: opened.offsets("test"),
        lambda: opened.read_sequences(1, "test"),
        lambda: next(opened.iter_sequences(1, "test")),
        lambda: opened.read_example("test", 0),
        lambda: opened.examples("test"),
        lambda: verify_store(store_copy),
    ):
        with pytest.raises(DamageError, match=r"offsets of test do not divide the \d+ tokens into examples"):
            read()


@pytest.mark.parametrize(
    ("path", "position", "value"),
    [("test/success", 0, 3), ("test/success", 1, -1)],
)
def test_values_that_mean_nothing_are_found_by_verify(path, position, value, store_copy):
    change_array(store_copy, path, put(position, value))
    with pytest.raises(DamageError):
        verify_store(store_copy)


ROW = {
    "id": "a",
    "task": "winogrande",
    "group": "0",
    "source_row": 0,
    "prompt": "a",
    "success": 1,
    "tokens": 1,
    "final_token_position": 0,
    "cut_tokens": 0,
    "choices": ["a", "b"],
    "gold": 0,
    "prediction": 0,
    "choice_logprobs": [0.0, -1.0],
    "choice_tokens": [1, 1],
}


def table(change=lambda table: table, **options):
    """A table of as many rows as the split has, changed."""

    def write(rows):
        content = io.BytesIO()
        made = pa.Table.from_pylist([ROW] * rows, schema=arrow_schema("choice"))
        pq.write_table(change(made), content, compression="zstd", **options)
        return content.getvalue()

    return write


def long_text(table):
    """One of its prompts, which is compressed to a few kilobytes."""
    prompts = ["a" * 80 * 2**20, *table["prompt"].to_pylist()[1:]]
    return table.set_column(4, "prompt", pa.array(prompts))


TABLES = {
    "no table": lambda rows: b"PAR1" * 40,
    "nothing": lambda rows: b"",
    "a pickle": lambda rows: pickle.dumps(["a"]),
    "another number of rows": table(lambda table: table.slice(1)),
    "a column less": table(lambda table: table.drop_columns(["prompt"])),
    "a column more": table(lambda table: table.append_column("more", table["gold"])),
    "a type of its own": table(lambda table: table.set_column(3, "source_row", table["id"])),
    "a text of many megabytes": table(long_text, use_dictionary=False, write_statistics=False),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_is_not_one_of_examples(case, store_copy):
    opened = open_store(store_copy)
    (store_copy / "test" / "examples.parquet").write_bytes(TABLES[case](opened.count("test")))
    sealed_again(store_copy)
    opened = open_store(store_copy)
    for read in (opened.table, lambda: opened.examples("test"), lambda: opened.column("id")):
        refused(read, r"test/examples\.parquet cannot be read \(.*names the file", lambda read: read())
    with pytest.raises(DamageError):
        verify_store(store_copy)


def declares(frame, size):
    return frame[:4] + size.to_bytes(4, "little") + frame[8:]


def blosc(values):
    return bytes(numcodecs.Blosc(cname="zstd", clevel=1, blocksize=values.nbytes).encode(values))


BOMBS = {
    "one that says it holds gigabytes": lambda: declares(blosc(np.zeros(16, np.int8)), 2**31 - 2),
    "one that holds a gigabyte": lambda: blosc(np.zeros(2**27, np.int8)),
    "one that holds less": lambda: blosc(np.zeros(2, np.int8)),
    "no frame": lambda: b"PK" * 40,
    "a frame of another codec": lambda: bytes(numcodecs.Zstd().encode(np.zeros(2**27, np.int8))),
    "a header alone": lambda: blosc(np.zeros(16, np.int8))[:16],
    "nothing": lambda: b"",
}


def peak() -> int:
    """The most memory that this process has held, in KiB."""
    resource = pytest.importorskip("resource", reason="Windows does not tell it")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // 1024 if sys.platform == "darwin" else most


@pytest.mark.parametrize("case", BOMBS)
@pytest.mark.parametrize("name", ["success", "offsets", "token_ids"])
def test_a_chunk_that_says_it_holds_gigabytes(case, name, store_copy):
    frame = BOMBS[case]()
    (store_copy / "test" / name / "c" / "0").write_bytes(frame + crc32c(frame))
    sealed_again(store_copy)
    opened = open_store(store_copy)
    before = peak()
    with pytest.raises(DamageError, match=rf"test/{name} cannot be read \((a chunk|the chunk)"):
        getattr(opened, name)("test")
    assert peak() - before < 2**16


@pytest.fixture
def two_stores(tmp_path, monkeypatch):
    """Two stores that differ in their numbers and in nothing else, of several shards each."""
    small_shards(monkeypatch)
    lengths = {"train": [9, 30, 8, 40, 25, 8, 40, 11, 5, 9], "validation": [5, 5], "test": [8, 8]}
    changed = {**lengths, "validation": [4, 4]}  # which changes the seed of the numbers
    for name, of_store in (("ours.zarr", lengths), ("theirs.zarr", changed)):
        write_store(tmp_path / name, of_store)
    return tmp_path / "ours.zarr", tmp_path / "theirs.zarr"


@pytest.mark.parametrize("array", ["final_token", "sequence"])
def test_a_shard_of_another_store_is_refused(array, two_stores):
    """Of the same size, or cut to it; every checksum inside of it fits."""
    ours, theirs = two_stores
    opened = open_store(ours)
    path = f"train/{array}/c/0/0/0"
    size = (ours / path).stat().st_size
    content = (theirs / path).read_bytes()
    assert content != (ours / path).read_bytes()
    (ours / path).write_bytes(content)
    with_files(ours, lambda files: files[path].update(size=len(content)))
    reopened = open_store(ours)
    for store in (opened, reopened) if len(content) == size else (reopened,):
        read = store.read_final_token if array == "final_token" else store.read_sequences
        with pytest.raises(DamageError, match=rf"a chunk of {path} is not the one that the manifest names"):
            read(3, "train")
    with pytest.raises(DamageError, match=rf"{path} does not have its SHA-256"):
        verify_store(ours)


def test_a_chunk_of_another_layer_in_its_stead_is_refused(two_stores):
    """The two layers of one shard exchange their chunks, which fit by their own checksums."""
    ours, _ = two_stores
    path, opened = "test/final_token/c/0/0/0", open_store(ours)
    content = (ours / path).read_bytes()
    count = math.prod(layouts_of(opened.manifest)["test/final_token"].chunks_per_shard)
    end = len(content) - index_bytes(count)
    index = np.roll(read_index(content[end:], count, end), count // 2, axis=0).tobytes()
    content = content[:end] + index + crc32c(index)
    (ours / path).write_bytes(content)
    with pytest.raises(DamageError, match=rf"a chunk of {path} is not the one that the manifest names"):
        opened.read_final_token(3, "test")


SMALL_FILES = {
    "test/success/c/0": lambda store: store.success("test"),
    "test/offsets/c/0": lambda store: store.offsets("test"),
    "test/token_ids/c/0": lambda store: store.token_ids("test"),
    "test/examples.parquet": lambda store: store.examples("test"),
}


@pytest.mark.parametrize("name", SMALL_FILES)
@pytest.mark.parametrize("how", ["gone", "swapped", "longer", "folder"])
def test_a_small_file_that_changes_after_the_store_was_opened(name, how, store_copy):
    """It never reads as fill values, nor as those of another store."""
    opened, path = open_store(store_copy), store_copy / name
    other = (store_copy / name.replace("test", "validation")).read_bytes()
    content = path.read_bytes()
    path.unlink()
    if how == "swapped":
        path.write_bytes(other)
    elif how == "longer":
        path.write_bytes(content[:-1] + b"\0" * 99)
    elif how == "folder":
        path.mkdir()
    says = "cannot be read" if how == "folder" else "does not have its SHA-256"
    with pytest.raises(StoreError, match=says):
        SMALL_FILES[name](opened)
    assert len(opened.success("train")) == opened.count("train")


def test_a_small_file_that_was_read_is_kept(store_copy):
    opened = open_store(store_copy)
    before = opened.success("test").tolist()
    (store_copy / "test" / "success" / "c" / "0").unlink()
    assert opened.success("test").tolist() == before


@pytest.mark.parametrize("name", ["train/final_token/c/0/0/0", "train/sequence/c/0/0/0"])
def test_a_shard_that_vanishes_after_the_store_was_opened(name, store_copy):
    opened = open_store(store_copy)
    (store_copy / name).unlink()
    read = opened.read_final_token if "final_token" in name else opened.read_sequences
    with pytest.raises(DamageError, match="cannot be read"):
        read(1, "train")


def test_a_table_of_other_labels_is_found_by_verify(store_copy):
    change_table(store_copy, "train", lambda rows: [{**row, "success": 1 - row["success"]} for row in rows])
    with pytest.raises(DamageError, match="the table of train has the labels"):
        verify_store(store_copy)


class Trap:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


def blocks_of(folder):
    """The folder of the blocks of a journal, and the journal."""
    made = folder / "s.zarr.partial" / "blocks"
    made.mkdir(parents=True)
    return made, Journal(folder / "s.zarr").blocks


def test_a_pickle_in_a_journal_is_not_run(tmp_path):
    content, trace = io.BytesIO(), tmp_path / "trace"
    np.savez(content, prompts=np.array([Trap(trace)], dtype=object))
    folder, blocks = blocks_of(tmp_path)
    (folder / "train-000000.npz").write_bytes(content.getvalue())
    with pytest.raises(BuildError, match="train-000000 is damaged"):
        blocks.block("train-000000")
    assert not trace.exists()
    with np.load(io.BytesIO(content.getvalue()), allow_pickle=True) as found:
        assert found["prompts"].shape == (1,)
    assert trace.exists()  # it would have been run


def test_a_link_in_a_journal_is_refused(tmp_path):
    folder, blocks = blocks_of(tmp_path)
    (folder / "train-000000.npz").symlink_to("/etc/passwd")
    with pytest.raises(DamageError, match=r"train-000000\.npz is a link"):
        blocks.names()


def test_nothing_is_unpickled(finished_store, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert read_all(finished_store)
    assert isinstance(WifError(), Exception)
    assert sys.modules["pickle"].loads is refuse


def test_residuals_that_are_no_numbers_are_found_by_verify(tmp_path, monkeypatch):
    """An extractor of ours refuses them; a stranger's store may hold them."""
    record = FakeExtract.record
    nan = np.uint16(0x7FC0)

    def broken(self, request):
        made = record(self, request)
        return replace(made, final_token=np.full_like(made.final_token, nan))

    monkeypatch.setattr(FakeExtract, "record", broken)
    build_store(settings(), source_of(tmp_path), fake_engine(), tmp_path / "s.zarr")
    with pytest.raises(DamageError, match="final_token of layer 0 is finite"):
        verify_store(tmp_path / "s.zarr")
