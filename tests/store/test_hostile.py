"""A store from a stranger: whatever it says of itself, our own error refuses it before memory is used."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from tests.support.refusals import refused
from tests.support.rewrite import (
    sealed_again,
    sections_of,
    with_files,
)
from wif_store.errors import DamageError
from wif_store.storage import describe
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store


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
    "an unknown field": at("more", value={"must_understand": True}),
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
    elif not hasattr(os, "mkfifo"):
        pytest.skip("no pipes in folders on this system")
    else:
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(DamageError):
        open_store(f"{url}{store_copy}")
    with pytest.raises(DamageError):
        verify_store(store_copy)
