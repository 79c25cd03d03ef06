"""A store from a stranger: whatever it says of itself, our own error refuses it before memory is used."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import resource
import shutil
import sys
import tracemalloc
from dataclasses import replace

import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.builds import settings, small_shards, source_of
from tests.support.fake_engine import FakeExtract, fake_engine
from tests.support.rewrite import (
    change_array,
    change_table,
    put,
    sealed_again,
    sections_of,
    with_files,
)
from tests.support.rows import write_store
from wif_store.builder.journal import Journal
from wif_store.builder.pipeline import build_store
from wif_store.errors import BuildError, DamageError, StoreError, WifError
from wif_store.format.chunks import crc32c, index_bytes, read_index
from wif_store.format.metadata import layouts_of
from wif_store.format.schema import SPLITS
from wif_store.format.table import arrow_schema
from wif_store.storage import describe
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store

MEMORY = 8 * 2**20
"""Bytes that a refusal may take, at most."""


def read_all(path):
    opened = open_store(path)
    for split in SPLITS:
        for layer in opened.layers:
            opened.read_final_token(layer, split)
        for layer in opened.sequence_layers:
            list(opened.iter_sequences(layer, split))
    return opened.examples()


def refused(store, match, *reads):
    """Opening a store, or reading it, ends in one line, and little memory was asked for until then."""
    for read in reads or (open_store, verify_store):
        tracemalloc.start()
        try:
            with pytest.raises(StoreError, match=match) as error:
                read(store)
            assert tracemalloc.get_traced_memory()[1] < MEMORY
        finally:
            tracemalloc.stop()
        assert len(str(error.value)) < 500
        assert str(error.value).isprintable()


def at(*path, value):
    """A change at one path of a file of JSON."""

    def change(data):
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


PICKLE = [{"name": "numcodecs.pickle", "configuration": {"protocol": 5}}]
GIANT = [1, 2**28, 16]
"""Chunks of 16 GiB."""
SHARD = ("codecs", 0, "configuration")
METADATA = {
    "a shape of petabytes": at("shape", value=[2, 2**40, 16]),
    "a shape that no number holds": at("shape", value=[10**30]),
    "a negative shape": at("shape", value=[-1, 2, 3]),
    "another rank": at("shape", value=[52]),
    "shards of 16 GiB": at("chunk_grid", "configuration", "chunk_shape", value=GIANT),
    "chunks of 16 GiB": at(*SHARD, "chunk_shape", value=GIANT),
    "chunks of nothing": at(*SHARD, "chunk_shape", value=[0, 0, 0]),
    "shards of atoms": at(*SHARD, "chunk_shape", value=[1, 1, 1]),
    "a pickle": at("codecs", value=PICKLE),
    "a pickle in a shard": at(*SHARD, "codecs", value=PICKLE),
    "a pickle beside others": lambda data: data["codecs"][0]["configuration"]["codecs"].extend(PICKLE),
    "another codec": at(*SHARD, "codecs", 1, value={"name": "gzip", "configuration": {"level": 1}}),
    "another compressor": at(*SHARD, "codecs", 1, "configuration", "cname", value="lz4"),
    "no checksum": lambda data: data["codecs"][0]["configuration"]["codecs"].pop(),
    "no checksum of the index": lambda data: data["codecs"][0]["configuration"]["index_codecs"].pop(),
    "an index elsewhere": at(*SHARD, "index_location", value="start"),
    "an object type": at("data_type", value="object"),
    "another type": at("data_type", value="float64"),
    "other dimensions": at("dimension_names", value=["token", "layer", "d_model"]),
    "a storage transformer": at("storage_transformers", value=[{"name": "x"}]),
    "an unknown field": at("helper", value={"must_understand": True}),
    "a fill that is data": at("fill_value", value=0.0),
    "other names of chunks": at("chunk_key_encoding", value={"name": "v2"}),
    "one attribute more": at("attributes", "note", value="x"),
    "a description that writes to the terminal": at("attributes", "description", value="\x1b]0;owned\x07"),
    "a group": at("node_type", value="group"),
    "a link to another array": at("codecs", 0, "configuration", "url", value="file:///etc/passwd"),
}


@pytest.mark.parametrize(
    ("case", "where"),
    [*((case, "array") for case in METADATA), *((case, "root") for case in [*METADATA][::5])],
)
def test_metadata_that_do_not_follow_from_the_manifest(case, where, store_copy):
    """Of an array of residuals, in its own file or in the root's copy of it."""
    path = store_copy / ("zarr.json" if where == "root" else "train/sequence/zarr.json")
    data = json.loads(path.read_bytes())
    node = data["consolidated_metadata"]["metadata"]["train/sequence"] if where == "root" else data
    METADATA[case](node)
    path.write_text(json.dumps(data, indent=1))
    # The manifest names the file as it is now; this store has nothing else that is wrong.
    with_files(store_copy, lambda files: files.update(described(store_copy, path)))
    name = path.relative_to(store_copy).parent.as_posix()
    refused(store_copy, f"{'zarr.json' if name == '.' else name} is not described as the store's counts req")


def described(store, path):
    return {path.relative_to(store).as_posix(): describe(path)}


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["attributes"].update(note="x"),
        lambda data: data["attributes"].update(format_version=2),
        lambda data: data["consolidated_metadata"]["metadata"].pop("test/success"),
        lambda data: data["consolidated_metadata"]["metadata"].update(extra={}),
        lambda data: data["consolidated_metadata"]["metadata"].clear(),
        lambda data: data["consolidated_metadata"].update(must_understand=True),
        lambda data: data.pop("consolidated_metadata"),
    ],
)
def test_a_root_group_that_says_something_else(change, store_copy):
    path = store_copy / "zarr.json"
    data = json.loads(path.read_bytes())
    change(data)
    path.write_text(json.dumps(data, indent=1))
    with_files(store_copy, lambda files: files.update(described(store_copy, path)))
    refused(store_copy, r"zarr\.json is not described as the store's counts require")


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"[]", b"{}", b"null", b"\xff", b'{"zarr_format":3}', b""]
)
@pytest.mark.parametrize("name", ["zarr.json", "test/zarr.json", "layer/zarr.json"])
def test_metadata_that_are_none_at_all(content, name, store_copy):
    (store_copy / name).write_bytes(content)
    with_files(store_copy, lambda files: files.update(described(store_copy, store_copy / name)))
    refused(store_copy, "is not described as the store's counts require")


def split_has(split, **values):
    return lambda sections: sections["splits"][split].update(values)


COUNTS = {
    "examples that no memory holds": split_has("train", examples=2**39, tokens=2**39),
    "tokens that no memory holds": split_has("train", tokens=2**39),
    "more examples than there are": split_has("test", examples=40),
    "fewer examples than there are": split_has("test", examples=2),
    "more tokens than there are": split_has("test", tokens=10**6),
    "one token more": lambda s: s["splits"]["test"].update(tokens=s["splits"]["test"]["tokens"] + 1),
    "another width": lambda sections: sections["model"].update(d_model=8),
    "a width that no memory holds": lambda sections: sections["model"].update(d_model=2**20),
    "layers that no memory holds": lambda sections: (
        sections["model"].update(n_layers=10**4),
        sections["layers"].update(final_token=list(range(10**4))),
    ),
    "a layer more": lambda sections: sections["layers"].update(sequence=[0, 1, 2]),
    "a layer less": lambda sections: sections["layers"].update(final_token=[0, 1]),
    "no sequences": lambda sections: sections["layers"].update(sequence=[]),
}


@pytest.mark.parametrize("case", COUNTS)
def test_counts_that_the_files_do_not_have(case, store_copy):
    sections = sections_of(store_copy)
    COUNTS[case](sections)
    sealed_again(store_copy, sections)
    refused(store_copy, r"manifest\.json does not describe this format \(.*: build or pull the store again")


def test_a_task_of_another_name(store_copy):
    """The root group names the task too, so that one of them cannot be changed alone."""
    sections = sections_of(store_copy)
    sections["task"] = "piqa"
    sealed_again(store_copy, sections)
    refused(store_copy, r"zarr\.json is not described as the store's counts require")


@pytest.mark.parametrize("case", ["named", "not there", "not named"])
def test_files_that_are_not_those_of_a_store(case, store_copy):
    if case == "not named":
        with_files(store_copy, lambda files: files.pop("test/success/c/0"))
        refused(store_copy, r"test/success/c/0 is not named; expected otherwise")
        return
    if case == "named":
        (store_copy / "run_me.py").write_text("raise SystemExit")
        sealed_again(store_copy)
        refused(store_copy, r"run_me\.py is named; expected otherwise")
        return
    with_files(store_copy, lambda files: files.update({"test/more/c/0": files["test/success/c/0"]}))
    refused(store_copy, r"test/more/c/0 is named; expected otherwise")


@pytest.mark.parametrize(
    "name", ["../train/success/c/0", "/etc/passwd", "./zarr.json", "a\nb", "a\x1b[2Jb", "x/../../y", "."]
)
def test_a_file_that_is_not_below_the_store(name, store_copy):
    with_files(store_copy, lambda files: files.update({name: files["test/success/c/0"]}))
    refused(store_copy, "is not a file below the store")


def test_a_manifest_larger_than_any(store_copy):
    os.truncate(store_copy / "manifest.json", 65 * 2**20)
    refused(store_copy, r"has 68157440 bytes; expected at most 67108864")
    refused(f"file://{store_copy}", r"has 68157440 bytes; expected at most 67108864", open_store)


def test_a_store_of_the_earlier_layout(store_copy):
    """Its arrays stood in the root group, and its manifest did not say which layers there are."""
    sections = sections_of(store_copy)
    for section in ("layers", "outcome", "sites"):
        del sections[section]
    sealed_again(store_copy, sections)
    refused(store_copy, "the store has an earlier layout, which nothing reads any more: build it again")


@pytest.mark.parametrize("url", ["", "file://"])
@pytest.mark.parametrize("kind", ["file", "folder", "fifo", "dangling"])
def test_links_and_devices_are_refused(kind, url, store_copy, tmp_path):
    secret, path = tmp_path / "secret", store_copy / "test" / "success" / "c" / "0"
    if kind == "file":
        path.rename(secret)
        path.symlink_to(secret)
    elif kind == "folder":
        shutil.move(path.parent, secret)
        path.parent.symlink_to(secret, target_is_directory=True)
    elif kind == "dangling":
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(DamageError):
        open_store(f"{url}{store_copy}")
    with pytest.raises(DamageError):
        verify_store(store_copy)


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


def tables():
    """Files in the place of a table of examples, by what they are."""
    row = {
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

    def written(rows, change=lambda table: table, **options):
        content = io.BytesIO()
        table = pa.Table.from_pylist(rows, schema=arrow_schema("choice"))
        pq.write_table(change(table), content, compression="zstd", **options)
        return content.getvalue()

    plain = {"use_dictionary": False, "write_statistics": False}
    return {
        "no table": b"PAR1" * 40,
        "nothing": b"",
        "a pickle": pickle.dumps(["a"]),
        "another number of rows": written([row]),
        "a column less": written([row], lambda table: table.drop_columns(["prompt"])),
        "a column more": written([row], lambda table: table.append_column("more", pa.array([1]))),
        "a type of its own": written([row], lambda table: table.set_column(3, "source_row", pa.array(["0"]))),
        "a text of many megabytes": written([{**row, "prompt": "a" * 80 * 2**20}], **plain),
    }


@pytest.fixture(scope="module")
def hostile_tables():
    return tables()


@pytest.mark.parametrize("case", list(tables()))
def test_a_table_that_is_not_one_of_examples(case, hostile_tables, store_copy):
    (store_copy / "test" / "examples.parquet").write_bytes(hostile_tables[case])
    sealed_again(store_copy)
    opened = open_store(store_copy)
    reads = (opened.table, lambda: opened.examples("test"), lambda: opened.column("id"))
    for read in reads:
        refused(
            read, r"test/examples\.parquet cannot be read \(.*verify. names the file", lambda read: read()
        )
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


@pytest.mark.parametrize("case", BOMBS)
@pytest.mark.parametrize("name", ["success", "offsets", "token_ids"])
def test_a_chunk_that_says_it_holds_gigabytes(case, name, store_copy):
    frame = BOMBS[case]()
    (store_copy / "test" / name / "c" / "0").write_bytes(frame + crc32c(frame))
    sealed_again(store_copy)
    opened = open_store(store_copy)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamageError, match=rf"test/{name} cannot be read \((a chunk|the chunk)"):
        getattr(opened, name)("test")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


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
    with pytest.raises(StoreError, match=r"does not have its SHA-256|cannot be read"):
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
