"""A store from a stranger: whatever it says of itself, our own error refuses it before memory is used."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import sys
import tracemalloc

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
from wif_store.format.bounded import zstd_content_size

from tests.support.stores import seal
from wif_store.builder.journal import Journal
from wif_store.errors import BuildError, DamageError, StoreError, WifError
from wif_store.format.manifest import render_manifest
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store


def manifest_of(store):
    return json.loads((store / "manifest.json").read_bytes())


def read_all(path):
    opened = open_store(path)
    for layer in opened.layers:
        opened.read_final_token(layer)
    for layer in opened.sequence_layers:
        list(opened.iter_sequences(layer))
    return opened.examples()


def at(*path, value):
    """A change of one place in the arrays' metadata."""

    def change(arrays):
        for key in path[:-1]:
            arrays = arrays[key]
        arrays[path[-1]] = value

    return change


def drop(name):
    return lambda arrays: arrays.pop(name)


PICKLE = [{"name": "numcodecs.pickle", "configuration": {"protocol": 5}}]
SHARD = ("final_token", "codecs", 0, "configuration")
METADATA = {
    "a shape of petabytes": at("sequence", "shape", value=[2, 2**40, 16]),
    "a shape that no number holds": at("gold", "shape", value=[10**30]),
    "chunks of petabytes": at(
        "final_token", "chunk_grid", "configuration", "chunk_shape", value=[1, 2**40, 16]
    ),
    "a negative shape": at("gold", "shape", value=[-1]),
    "chunks of nothing": at("gold", "chunk_grid", "configuration", "chunk_shape", value=[0]),
    "chunks of one": at("gold", "chunk_grid", "configuration", "chunk_shape", value=[1]),
    "shards of atoms": at(*SHARD, "chunk_shape", value=[1, 1, 1]),
    "a pickle": at("choices", "codecs", value=PICKLE),
    "a pickle in a shard": at(*SHARD, "codecs", value=PICKLE),
    "a pickle beside others": lambda arrays: arrays["gold"]["codecs"].extend(PICKLE),
    "no checksum": lambda arrays: arrays["gold"]["codecs"].pop(),
    "no checksum in a shard": lambda arrays: arrays["sequence"]["codecs"][0]["configuration"]["codecs"].pop(),
    "no checksum of the index": at(*SHARD, "index_codecs", value=[{"name": "bytes"}]),
    "an object type": at("gold", "data_type", value="object"),
    "another type": at("offsets", "data_type", value="int32"),
    "other dimensions": at("gold", "dimension_names", value=["token"]),
    "another rank": at("gold", "shape", value=[52, 2]),
    "a storage transformer": at("gold", "storage_transformers", value=[{"name": "x"}]),
    "an unknown field": at("gold", "helper", value={"must_understand": True}),
    "a missing array": drop("offsets"),
    "one array more": lambda arrays: arrays.update(extra=arrays["gold"]),
    "fewer tokens than the offsets say": at("token_ids", "shape", value=[10]),
    "a fill that is data": at("sequence", "fill_value", value=0.0),
    "another place for chunks": at("gold", "chunk_key_encoding", value={"name": "v2"}),
    "a missing array of sequences": drop("sequence"),
    "nothing": lambda arrays: arrays.clear(),
    "a list for an array": at("gold", value=[]),
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_that_are_not_a_stores(case, store):
    group = json.loads((store / "zarr.json").read_bytes())
    METADATA[case](group["consolidated_metadata"]["metadata"])
    (store / "zarr.json").write_text(json.dumps(group))
    seal(store, manifest_of(store))
    tracemalloc.start()
    with pytest.raises(DamageError, match=r"zarr\.json is damaged"):
        open_store(store)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"{}", b"null", b"\xff", b'{"zarr_format":3}'])
def test_metadata_that_are_none_at_all(content, store):
    (store / "zarr.json").write_bytes(content)
    seal(store, manifest_of(store))
    with pytest.raises(DamageError, match=r"zarr\.json is damaged"):
        open_store(store)


MANIFEST = {
    "more examples than there are": lambda m: m["splits"]["test"].update(examples=99),
    "splits that overlap": lambda m: m["splits"]["test"].update(start=0),
    "another width": lambda m: m["model"].update(d_model=8),
    "a width of text": lambda m: m["model"].update(d_model="16"),
    "no width": lambda m: m["model"].pop("d_model"),
    "a fourth split": lambda m: m["splits"].update(dev={"start": 52, "examples": 0, "successes": 0}),
    "a section of nothing": lambda m: m.update(selection=None),
    "an accuracy of text": lambda m: m["selection"].update(accuracy="x" * 10**6),
    "an accuracy that is no number": lambda m: m["selection"].update(accuracy=float("nan")),
    "a task that writes to the terminal": lambda m: m.update(task="wino\x1b]0;owned\x07"),
    "a section more": lambda m: m.update(helper={}),
}


@pytest.mark.parametrize("case", MANIFEST)
def test_a_manifest_that_lies(case, store):
    manifest = manifest_of(store)
    MANIFEST[case](manifest)
    seal(store, manifest)
    with pytest.raises(StoreError) as error:
        open_store(store)
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "name", ["../gold/c/0", "./gold/c/0", "gold//c/0", "/gold", "a\nb", "x/../../y", "."]
)
def test_a_file_that_is_not_below_the_store(name, store):
    manifest = manifest_of(store)
    manifest["files"][name] = manifest["files"]["gold/c/0"]
    (store / "manifest.json").write_bytes(render_manifest(manifest))
    with pytest.raises(StoreError, match="is not a file below the store"):
        open_store(store)


def test_a_manifest_larger_than_any(store):
    os.truncate(store / "manifest.json", 65 * 2**20)
    with pytest.raises(StoreError, match=r"has 68157440 bytes; expected at most 67108864"):
        open_store(store)
    with pytest.raises(StoreError, match=r"has 68157440 bytes; expected at most 67108864"):
        open_store(f"file://{store}")


@pytest.mark.parametrize(
    "content", [b'{"a":' * 100_000, b"[" * 10**6, b"9" * 10**6, b"", b"\x00" * 99, b"\xff\xfe"]
)
def test_a_manifest_that_is_none(content, store):
    (store / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match="is not a wif-store manifest"):
        open_store(store)


@pytest.mark.parametrize("url", ["", "file://"])
@pytest.mark.parametrize("kind", ["file", "folder", "fifo"])
def test_links_and_devices_are_refused(kind, url, store, tmp_path):
    secret = tmp_path / "secret"
    place = store / "gold" / "c" / "0"
    if kind == "file":
        place.rename(secret)
        place.symlink_to(secret)
    elif kind == "folder":
        shutil.move(store / "gold" / "c", secret)
        (store / "gold" / "c").symlink_to(secret, target_is_directory=True)
    else:
        place.unlink()
        os.mkfifo(place)
    with pytest.raises(DamageError):
        open_store(f"{url}{store}")


def values(name, change):
    """Other values in one array, under checksums that fit."""

    def rewrite(store):
        array = zarr.open_group(store, mode="r+")[name]
        array[...] = change(array[...].copy())
        seal(store, manifest_of(store))

    return rewrite


def put(position, value):
    def change(array):
        array[position] = value
        return array

    return change


VALUES = {
    "offsets that go back": values("offsets", put(3, 0)),
    "offsets below 0": values("offsets", put(0, -5)),
    "offsets past the end": values("offsets", put(-1, 2**40)),
    "a fourth split": values("split", put(0, 7)),
    "a negative split": values("split", put(0, -1)),
    "more choices than there are": values("n_choices", put(0, 9)),
    "one choice": values("n_choices", put(0, 1)),
    "an answer that is no choice": values("prediction", put(0, 2)),
    "a gold below 0": values("gold", put(0, -1)),
    "a success of 3": values("success", put(0, 3)),
    "layers out of order": values("layer", put(0, 2)),
    "a layer below 0": values("sequence_layer", put(0, -1)),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_that_are_no_index(case, store):
    VALUES[case](store)
    with pytest.raises(DamageError):
        read_all(store)


def crc32c(content):
    return content + google_crc32c.value(content).to_bytes(4, "little")


def zstd_bomb(declared):
    """A frame that says it holds this much, which a decoder that trusts it makes room for."""
    return bytes.fromhex("28b52ffd") + bytes([0xE0]) + declared.to_bytes(8, "little") + b"\x01\x00\x00"


BOMBS = {
    "numbers": ("gold/c/0", lambda: zstd_bomb(2**33)),
    "texts": ("prompt/c/0", lambda: zstd_bomb(2**33)),
    "texts without number": (
        "prompt/c/0",
        lambda: bytes(numcodecs.Zstd().encode(np.array([2**31 - 1], np.uint32))),
    ),
    "a real one": ("gold/c/0", lambda: bytes(numcodecs.Zstd().encode(np.zeros(2**27, np.uint8)))),
    "no frame": ("gold/c/0", lambda: b"PK" * 40),
    "no size": ("gold/c/0", lambda: bytes.fromhex("28b52ffd0058") + b"\x01\x00\x00"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_chunk_that_says_it_holds_gigabytes(case, store):
    name, bomb = BOMBS[case]
    (store / name).write_bytes(crc32c(bomb()))
    seal(store, manifest_of(store))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamageError, match=r"says it holds|is not a zstd frame|does not say how much"):
        open_store(store).array(name.split("/")[0])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_791, 65_792, 2**20])
def test_the_size_in_a_zstd_frame(size):
    assert zstd_content_size(bytes(numcodecs.Zstd().encode(np.zeros(size, np.uint8)))[:20]) == size


def test_a_stranger_among_the_files(store):
    (store / "run_me.py").write_text("raise SystemExit")
    with pytest.raises(DamageError, match=r"run_me\.py is not in the manifest"):
        verify_store(store)
    seal(store, manifest_of(store))
    with pytest.raises(DamageError, match=r"run_me\.py is in only one of manifest\.json and zarr\.json"):
        open_store(store)


def test_array_metadata_that_other_readers_would_follow(store):
    path = store / "gold" / "zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "fill_value": 0}))
    seal(store, manifest_of(store))
    with pytest.raises(DamageError, match=r"gold/zarr\.json is not what zarr\.json says of it"):
        verify_store(store)


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


def test_a_pickle_in_a_journal_is_not_run(tmp_path):
    content, trace = io.BytesIO(), tmp_path / "trace"
    np.savez(content, prompts=np.array([Bomb(trace)], dtype=object))
    blocks = Journal(tmp_path / "s.zarr").blocks
    folder = tmp_path / "s.zarr.partial" / "blocks"
    folder.mkdir(parents=True)
    (folder / "000000.npz").write_bytes(content.getvalue())
    with pytest.raises(BuildError, match="000000 is damaged"):
        blocks.block(0)
    assert not trace.exists()
    with np.load(io.BytesIO(content.getvalue()), allow_pickle=True) as found:
        assert found["prompts"].shape == (1,)
    assert trace.exists()  # it would have been run


def test_a_link_in_a_journal_is_refused(tmp_path):
    blocks = Journal(tmp_path / "s.zarr").blocks
    folder = tmp_path / "s.zarr.partial" / "blocks"
    folder.mkdir(parents=True)
    (folder / "000000.npz").symlink_to("/etc/passwd")
    with pytest.raises(DamageError, match=r"000000\.npz is a link"):
        blocks.numbers()


def test_nothing_is_unpickled(whole, monkeypatch):
    import pickle

    def refuse(*args, **kwargs):
        raise AssertionError

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert read_all(whole)
    assert isinstance(WifError(), Exception)
    assert sys.modules["pickle"].loads is refuse
