"""The reader: identity over ragged lengths, many chunks and shards, and what is refused."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import httpx2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wif_store
from tests.support import builds
from tests.support.builds import contents, small_shards, source_of
from tests.support.fake_engine import fake_engine
from tests.support.rows import LAYERS, WIDTH, expected, write_store
from wif_store.builder.pipeline import build_store
from wif_store.errors import DamageError, StoreError
from wif_store.format.chunks import index_bytes, read_index
from wif_store.format.metadata import layouts_of
from wif_store.format.schema import SPLITS, columns
from wif_store.records import widen
from wif_store.storage import LocalStorage
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store

LENGTHS = {
    "train": [9, 30, 2, 17, 25, 8, 1, 3, 40, 11, 5, 5, 70, 4, 2, 2, 9, 9],
    "validation": [8] * 16,
    "test": [3, 150],
}
"""In shards of 8 examples and 64 tokens: three of examples and four of tokens; two and two; one and three."""

PAIRS = st.lists(st.integers(1, 40), min_size=2, max_size=20).map(lambda n: n[: len(n) // 2 * 2])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A store of several chunks and shards, and the records it is made of."""
    folder = tmp_path_factory.mktemp("store") / "s.zarr"
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        return folder, write_store(folder, LENGTHS)


@pytest.fixture
def store(written, monkeypatch):
    small_shards(monkeypatch)
    return open_store(written[0])


@pytest.fixture
def records(written):
    return written[1]


def assert_is(store, records):
    for split in SPLITS:
        for index, layer in enumerate(LAYERS):
            want = expected(records[split], index)
            for got, sequence in zip(store.iter_sequences(layer, split), want, strict=True):
                np.testing.assert_array_equal(got, sequence)
            flat, offsets = store.read_sequences(layer, split)
            np.testing.assert_array_equal(flat, np.concatenate(want))
            assert offsets.tolist() == np.cumsum([0, *map(len, want)]).tolist()
            final, success = store.read_final_token(layer, split)
            np.testing.assert_array_equal(final, [sequence[-1] for sequence in want])
            assert success.tolist() == [1, 0] * (len(want) // 2)
        assert store.column("prompt", split).tolist() == [r.prompt for r in records[split]]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(train=PAIRS, validation=PAIRS, test=PAIRS)
def test_what_is_written_is_read(train, validation, test, tmp_path_factory):
    folder = tmp_path_factory.mktemp("identity")
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        records = write_store(folder / "s.zarr", {"train": train, "validation": validation, "test": test})
        assert_is(open_store(folder / "s.zarr"), records)
        verify_store(folder / "s.zarr")
    shutil.rmtree(folder)


def test_many_shards_are_read(store, records):
    counts = {path: len(plan.files) for path, plan in layouts_of(store.manifest).items() if plan.shard}
    assert counts == {
        "train/final_token": 3,
        "train/sequence": 4,
        "validation/final_token": 2,
        "validation/sequence": 2,
        "test/final_token": 1,
        "test/sequence": 3,
    }
    assert_is(store, records)


def test_every_example_is_read_alone(store, records):
    for split in SPLITS:
        for row, record in enumerate(records[split]):
            final, sequence = store.read_example(split, row)
            np.testing.assert_array_equal(final, widen(record.final_token))
            np.testing.assert_array_equal(sequence, widen(record.sequence))


def test_without_a_split_all_are_read_one_after_the_other(store):
    for layer in LAYERS:
        parts = [store.read_final_token(layer, split) for split in SPLITS]
        values, success = store.read_final_token(layer)
        np.testing.assert_array_equal(values, np.concatenate([part[0] for part in parts]))
        np.testing.assert_array_equal(success, np.concatenate([part[1] for part in parts]))
        flat, offsets = store.read_sequences(layer)
        np.testing.assert_array_equal(
            flat, np.concatenate([store.read_sequences(layer, s)[0] for s in SPLITS])
        )
        assert len(offsets) == len(store) + 1
        every = list(store.iter_sequences(layer))
        assert len(every) == len(store)
        for i, sequence in enumerate(every):
            np.testing.assert_array_equal(sequence, flat[offsets[i] : offsets[i + 1]])
    assert [e.id for e in store.examples()] == store.column("id").tolist()
    assert store.column("id").tolist() == [id for split in SPLITS for id in store.column("id", split)]
    assert store.table().num_rows == len(store) == sum(store.count(split) for split in SPLITS)
    assert store.token_ids().tolist() == [t for split in SPLITS for t in store.token_ids(split).tolist()]


def test_what_a_store_says_of_itself(store):
    assert (store.task, store.layers, store.sequence_layers, store.d_model) == (
        "winogrande",
        LAYERS,
        LAYERS,
        WIDTH,
    )
    assert (len(store), store.count("test")) == (36, 2)
    assert repr(store) == f"<ActivationStore {store.name}: winogrande, 36 examples, 2 layers, d_model 16>"
    assert isinstance(store, wif_store.ActivationStore)
    assert wif_store.open_store is open_store


def test_examples_have_their_tokens_and_every_column(store, records):
    for split in SPLITS:
        table = store.table(split).to_pylist()
        for i, (example, record) in enumerate(zip(store.examples(split), records[split], strict=True)):
            np.testing.assert_array_equal(example.token_ids, record.token_ids)
            assert example.tokens == len(record.token_ids) == example.final_token_position + 1
            assert example.split == split
            for name, value in table[i].items():
                held = (
                    getattr(example, name, None) if hasattr(example, name) else getattr(example.choice, name)
                )
                assert list(held) == value if isinstance(value, list) else held == value
    for column in columns("choice"):
        assert len(store.column(column.name)) == len(store)


def test_texts_are_not_widened_to_the_longest(tmp_path, monkeypatch):
    """One prompt of 200,000 characters among 36."""
    from tests.support import rows

    record = rows.record
    monkeypatch.setattr(
        rows, "record", lambda name, *given: record(name if name != "7" else "é" * 200_000, *given)
    )
    write_store(tmp_path / "s.zarr", LENGTHS)
    prompts = open_store(tmp_path / "s.zarr").column("prompt")
    assert prompts.dtype == object
    assert len(prompts[7]) == 200_009
    assert prompts.nbytes == 8 * 36


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda s: s.read_final_token(4), "no final_token residuals of layer 4; it has: 3, 5"),
        (lambda s: s.read_sequences(4), "no sequence residuals of layer 4; it has: 3, 5"),
        (lambda s: s.iter_sequences(4), "no sequence residuals of layer 4; it has: 3, 5"),
        (lambda s: s.read_final_token(3, "dev"), "no split 'dev'; expected one of: train, validation, test"),
        (lambda s: s.read_sequences(3, "dev"), "no split 'dev'"),
        (lambda s: s.iter_sequences(3, "dev"), "no split 'dev'"),
        (lambda s: s.count("dev"), "no split 'dev'"),
        (lambda s: s.success("dev"), "no split 'dev'"),
        (lambda s: s.examples("dev"), "no split 'dev'"),
        (lambda s: s.read_example("dev", 0), "no split 'dev'"),
        (lambda s: s.read_example("test", 2), "test has no row 2; it has 2, from 0"),
        (lambda s: s.read_example("test", -1), "test has no row -1; it has 2, from 0"),
        (lambda s: s.column("final_token"), "no column 'final_token'; expected one of: id, task, "),
    ],
)
def test_what_is_not_there_is_said(store, read, message):
    with pytest.raises(StoreError, match=message):
        read(store)


def bytes_of_layer(store, split, name, layer):
    """What is stored of a layer of a split: the chunks' bytes, and those of the indices beside them."""
    path = f"{split}/{name}"
    plan = layouts_of(store.manifest)[path]
    count, index = int(np.prod(plan.chunks_per_shard)), LAYERS.index(layer)
    chunks = indices = 0
    for file in plan.files:
        content = (Path(store.name) / path / file).read_bytes()
        end = len(content) - index_bytes(count)
        ranges = read_index(content[end:], count, end).reshape(len(LAYERS), -1, 2)[index]
        chunks += int(ranges[ranges[:, 0] >= 0, 1].sum())
        indices += index_bytes(count)
    return chunks, indices


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("layer", LAYERS)
def test_one_layer_of_one_split_reads_that_layer_alone(split, layer, store, reads):
    for name, read in (("final_token", store.read_final_token), ("sequence", store.read_sequences)):
        reads.clear()
        read(layer, split)
        found = {file for file, _ in reads}
        assert all(file.startswith(f"{split}/{name}/") or file.endswith("/c/0") for file in found)
        assert found - {f"{split}/success/c/0", f"{split}/offsets/c/0"} == {
            f"{split}/{name}/{file}" for file in layouts_of(store.manifest)[f"{split}/{name}"].files
        }
        of_array = sum(len(content) for file, content in reads if f"/{name}/" in file)
        assert of_array == sum(bytes_of_layer(store, split, name, layer))


def test_sequences_one_by_one_read_every_byte_once(store, reads):
    list(store.iter_sequences(5, "train"))
    read = sum(len(content) for file, content in reads if "/sequence/" in file)
    assert read == sum(bytes_of_layer(store, "train", "sequence", 5))


def test_an_example_reads_few_chunks_of_each_layer(store, reads):
    store.read_example("train", 4)
    assert {file.split("/c/")[0] for file, _ in reads} == {
        "train/final_token",
        "train/sequence",
        "train/offsets",
    }
    assert len({file for file, _ in reads if "/final_token/" in file}) == 1


def test_what_is_small_is_read_once(store, reads):
    for _ in range(3):
        store.examples()
        store.success()
        store.column("group")
        store.offsets("test")
    files = [file for file, _ in reads]
    assert len(files) == len(set(files)) == 3 * 4  # success, offsets, token ids, table


def test_threads_that_ask_at_once_read_what_is_small_once(store, reads, monkeypatch):
    read = LocalStorage.read

    def slow(self, *part):
        time.sleep(0.01)
        return read(self, *part)

    monkeypatch.setattr(LocalStorage, "read", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: (store.read_final_token(5, "train"), store.examples("train")), range(4)))
    small = [file for file, _ in reads if "/final_token/" not in file]
    assert len(small) == len(set(small)) == 4
    chunks, indices = bytes_of_layer(store, "train", "final_token", 5)
    assert sum(len(content) for file, content in reads if "/final_token/" in file) == 4 * chunks + indices


def test_another_process_reads_the_store_it_is_given(store):
    store.read_final_token(5, "train")
    again = pickle.loads(pickle.dumps(store))
    assert repr(again) == repr(store)
    for found, before in zip(again.read_sequences(5), store.read_sequences(5), strict=True):
        np.testing.assert_array_equal(found, before)


def test_what_is_kept_cannot_be_changed_by_whoever_got_it(store):
    for read in (store.success, store.offsets, store.token_ids):
        values = read("test")
        before = values.copy()
        try:
            values[:] = 0
        except ValueError:
            continue
        np.testing.assert_array_equal(read("test"), before)


def test_a_store_without_sequences_says_so(tmp_path):
    build_store(builds.settings(), source_of(tmp_path), fake_engine(sequence_layers=0), tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match="no sequence residuals of layer 0; it has: none"):
        store.read_sequences(0)
    assert store.read_example("test", 0)[1].shape == (0, len(store.examples("test")[0].token_ids), 16)


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_url_reads_as_a_folder(scheme, written, store):
    folder, records = written
    url = f"file://{folder}"
    if scheme == "memory":
        url = f"memory://bucket-{os.urandom(4).hex()}/s.zarr"
        for name in contents(folder):
            with fsspec.open(f"{url}/{name}", "wb") as file:
                file.write((folder / name).read_bytes())
    there = open_store(url)
    assert there.name == url
    assert_is(there, records)
    assert there.manifest == store.manifest
    np.testing.assert_array_equal(there.zarr_group()["test/success"][...], store.success("test"))


@pytest.mark.parametrize("path", ["nowhere", ""])
def test_what_is_no_store_is_said(path, tmp_path):
    with pytest.raises(
        StoreError, match=r"is not a store: found no manifest\.json; expected what `wif-store"
    ):
        open_store(tmp_path / path)


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "s.zarr").write_text("{}")
    with pytest.raises(StoreError, match=r"is not a store: found no manifest\.json"):
        open_store(tmp_path / "s.zarr")


def test_an_unfinished_store_is_said(tmp_path):
    (tmp_path / "s.zarr.partial").mkdir()
    with pytest.raises(StoreError, match="is unfinished: run the build command that began it again"):
        open_store(tmp_path / "s.zarr")


def test_a_hub_that_fails_in_mid_read_is_no_damage(store, monkeypatch):
    def reset(*args):
        msg = "Server disconnected"
        raise httpx2.ReadError(msg)

    monkeypatch.setattr(store, "name", "hf://datasets/me/acts/s.zarr")
    monkeypatch.setattr(LocalStorage, "read", reset)
    for read in (store.success, store.table, lambda: store.read_sequences(3, "test")):
        with pytest.raises(StoreError, match=r"dataset me/acts cannot be .*: ") as error:
            read()
        assert not isinstance(error.value, DamageError)
        assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_said(store, monkeypatch):
    def fails(self, name, start=0, stop=None):
        raise OSError(5, "Input/output error", name)

    monkeypatch.setattr(LocalStorage, "read", fails)
    for read in (store.success, store.table, lambda: store.read_sequences(3, "test")):
        with pytest.raises(StoreError, match=r"cannot be read .*Input/output error"):
            read()


def test_the_table_of_a_split_is_the_file(store):
    content = (Path(store.name) / "test" / "examples.parquet").read_bytes()
    assert pq.read_table(io.BytesIO(content)).equals(store.table("test"))
