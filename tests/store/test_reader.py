"""Reader and writer together: identity over ragged lengths, many chunks and shards, and what is refused."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wif_store import codecs
from wif_store.errors import StoreError
from wif_store.builder.journal import Journal
from wif_store.records import Record, widen
from wif_store.builder.shards import write_shards
from wif_store.store.reader import open_store, parse_manifest
from wif_store.store.verify import verify_store
from wif_store.builder.writer import Kept, StoreWriter

HEADER = {
    "task": "winogrande",
    "protocol": {"name": "aligned", "version": 1, "site": "preferred"},
    "model": {
        "id": "made/up",
        "kind": "fake",
        "revision": "0",
        "dtype": "bfloat16",
        "device": "cpu",
        "architecture": "None",
        "d_model": 16,
    },
    "source": {"kind": "local", "id": "rows.jsonl", "revision": None, "rows": 9, "sha256": "0"},
    "selection": {"accuracy": 0.5, "scanned": 9, "seed": 0},
    "audit": {},
    "batching": {},
    "versions": {},
}
SMALL = {
    "ZSTD_BLOCK": 32,
    "SEQUENCE_PLANE": 64,
    "FINAL_TOKEN_PLANE": 32,
    "SHARD_BYTES": 1024,
    "EXAMPLES_PER_CHUNK": 4,
}


def record(name, length, rng):
    sequence = rng.integers(0, 0x7F00, (2, length, 16)).astype(np.uint16)
    return Record(
        id=name,
        logprobs=np.array([-1.0, -2.0]),
        choice_tokens=np.array([1, 2], np.int32),
        prediction=0,
        prompt=f"prompt {name} é",
        cut=0,
        cost=length,
        token_ids=rng.integers(0, 9, length).astype(np.int32),
        final_token=sequence[:, -1],
        sequence=sequence,
    )


def kept(block, row, split, success):
    values = {
        "example_id": f"winogrande-{row:016x}",
        "source_row": row,
        "choices": ["a", "b"],
        "n_choices": 2,
        "gold": 0 if success else 1,
        "prediction": 0,
        "success": int(success),
        "choice_logprob": [-1.0, -2.0],
        "choice_tokens": [1, 2],
        "cut_tokens": 0,
    }
    return Kept(block, row, split, values)


def write(folder, lengths):
    """Write examples of these lengths, half in train, half in test, and return their records."""
    rng = np.random.default_rng(sum(lengths))
    records = [record(str(i), n, rng) for i, n in enumerate(lengths)]
    journal = Journal(folder / "s.zarr")
    journal.open({})
    journal.blocks.write(0, records, [True] * len(records))
    block = journal.blocks.block(0)
    half = len(lengths) // 2
    examples = [kept(block, i, "train" if i < half else "test", i % 2) for i in range(len(lengths))]
    writer = StoreWriter(examples, [3, 5], [3, 5], 16)
    shards = list(write_shards(journal, writer.shards()))
    writer.finish(journal.store, HEADER, {shard.name: shard.entry for shard in shards})
    journal.finish(b"{}\n")
    return records


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 40), min_size=2, max_size=24))
def test_what_is_written_is_read(lengths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("identity")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(codecs, name, value)
        patch.setattr(os, "fsync", lambda descriptor: None)  # nobody pulls the plug, hundreds of times
        records = write(folder, lengths)
    store = open_store(folder / "s.zarr")
    for n, layer in enumerate((3, 5)):
        for split, part in (("train", records[: len(lengths) // 2]), ("test", records[len(lengths) // 2 :])):
            read = list(store.iter_sequences(layer, split))
            assert [len(r) for r in read] == [len(r.token_ids) for r in part]
            for got, want in zip(read, part, strict=True):
                np.testing.assert_array_equal(got, widen(want.sequence)[n])
            final, _ = store.read_final_token(layer, split)
            np.testing.assert_array_equal(final, [widen(r.final_token)[n] for r in part])
            assert [e.prompt for e in store.examples(split)] == [r.prompt for r in part]
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    write(folder, [3, 4, 5, 6])
    return folder / "s.zarr"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda s: s.read_final_token(4), "no final_token residuals of layer 4; it has: 3, 5"),
        (lambda s: s.read_sequences(4), "no sequence residuals of layer 4"),
        (lambda s: s.iter_sequences(4), "no sequence residuals of layer 4"),
        (lambda s: s.rows("dev"), "no split 'dev'; expected one of: "),
        (lambda s: s.array("final_token"), "no per-example array 'final_token'"),
    ],
)
def test_what_is_not_there_is_said(store, read, message):
    with pytest.raises(StoreError, match=message):
        read(open_store(store))


def test_an_empty_split_reads_as_nothing(store):
    opened = open_store(store)
    assert opened.read_final_token(3, "validation")[0].shape == (0, 16)
    assert list(opened.iter_sequences(3, "validation")) == []
    assert opened.examples("validation") == []


def test_an_unknown_file_is_found(store, tmp_path):
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store, copy)
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"notes\.txt is not in the manifest"):
        verify_store(copy)


def good_manifest(store):
    return json.loads((store / "manifest.json").read_bytes())


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../etc/passwd": {"size": 1, "sha256": "0"}}},
        {"files": {"/etc/passwd": {"size": 1, "sha256": "0"}}},
        {"files": {"a": {"size": -1, "sha256": "0"}}},
        {"files": {"a": {"size": True, "sha256": "0"}}},
        {"files": {"a": {"size": 1, "sha256": 0}}},
        {"files": ["a"]},
        {"splits": {}},
        {"splits": {"train": {"start": -4, "examples": 1}}},
        {"format": "other"},
        {"format_version": None},
    ],
)
def test_a_hostile_manifest_is_refused(store, change):
    with pytest.raises(StoreError):
        parse_manifest(json.dumps(good_manifest(store) | change).encode(), "s.zarr")


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
    )
)
def test_whatever_stands_in_a_manifest_the_error_is_ours(value):
    fields = dict.fromkeys(
        ("task", "protocol", "model", "source", "selection", "audit", "batching", "versions"), value
    )
    for content in (
        value,
        {"format": "wif-store", "format_version": 1, **fields, "splits": value, "files": value},
    ):
        with pytest.raises(StoreError):
            parse_manifest(json.dumps(content).encode(), "s.zarr")
