"""The build: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import gc
import json
import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from tests.support import tiny
from tests.support.builds import (
    PROTOCOL,
    TASK,
    ids_of,
    requests_of,
    settings,
    small_shards,
    source_of,
)
from tests.support.fake_engine import FakeExtract, fake_engine
from wif_store.builder.pipeline import Progress, build_store
from wif_store.format.schema import SPLITS
from wif_store.records import widen
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store
from wif_store.tasks.rows import load_source


def test_what_is_written_is_what_was_extracted(source, tmp_path):
    engine = fake_engine()
    build_store(settings(), source, engine, tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    assert verify_store(tmp_path / "s.zarr").examples == len(store)
    requests = requests_of(source)
    by_id = {c.id: c for c in source.candidates}
    for split in SPLITS:
        examples = store.examples(split)
        assert len(examples) >= 4
        sequences = [list(store.iter_sequences(layer, split)) for layer in store.sequence_layers]
        final = [store.read_final_token(layer, split) for layer in store.layers]
        for i, example in enumerate(examples):
            candidate, record = by_id[example.id], engine.extract.record(requests[example.id])
            assert example.split == split
            assert (example.task, example.group) == (TASK.name, candidate.group)
            assert example.source_row == candidate.source_row
            assert example.prompt == record.prompt
            assert (example.tokens, example.final_token_position) == (record.cost, record.cost - 1)
            np.testing.assert_array_equal(example.token_ids, record.token_ids)
            assert example.choice.choices == candidate.choices
            assert (example.choice.gold, example.choice.prediction) == (candidate.gold, record.prediction)
            assert example.choice.choice_logprobs == tuple(record.logprobs)
            assert example.choice.choice_tokens == tuple(record.choice_tokens)
            assert example.success == (record.prediction == candidate.gold)
            for layer, (values, success) in zip(store.layers, final, strict=True):
                np.testing.assert_array_equal(values[i], widen(record.final_token)[layer])
                assert success[i] == example.success
            for n, layer in enumerate(store.sequence_layers):
                np.testing.assert_array_equal(sequences[n][i], widen(record.sequence)[layer])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_types_than_bfloat16_are_kept_to_the_bit(dtype, source, tmp_path):
    engine = fake_engine()

    def extract(requests):
        return [
            replace(
                record,
                final_token=(widen(record.final_token) / 3).astype(dtype),
                sequence=(widen(record.sequence) / 3).astype(dtype),
            )
            for record in engine.extract(requests)
        ]

    given = replace(engine, extract=extract, model={**engine.model, "dtype": dtype})
    build_store(settings(), source, given, tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    [record] = extract([requests_of(source)[store.column("id", "test")[2]]])
    final, sequence = store.read_example("test", 2)
    np.testing.assert_array_equal(final, record.final_token.astype(np.float32))
    np.testing.assert_array_equal(sequence, record.sequence.astype(np.float32))
    verify_store(tmp_path / "s.zarr")


def test_a_store_without_sequences(source, tmp_path):
    build_store(settings(), source, fake_engine(sequence_layers=0), tmp_path / "s.zarr")
    assert not list((tmp_path / "s.zarr").rglob("sequence"))
    store = open_store(tmp_path / "s.zarr")
    final, sequences = store.read_example("train", 0)
    assert (final.shape, sequences.shape[0]) == ((3, 16), 0)
    assert len(store.offsets("train")) == store.count("train") + 1
    verify_store(tmp_path / "s.zarr")


@pytest.mark.parametrize("task", ["boolq", "piqa", "social_i_qa"])
def test_every_task_is_built(task, tmp_path):
    from tests.support.stores import make_store

    out = make_store(tmp_path / "s.zarr", task, per_class=8)
    assert verify_store(out).examples == 16
    assert {e.task for e in open_store(out).examples()} == {task}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", [pytest.param("gemma2", marks=pytest.mark.slow), "llama"])
def test_a_smaller_store_of_a_real_model_is_the_prefix_value_by_value(
    architecture, dtype, tiny_models, tmp_path, monkeypatch
):
    """A block has the same candidates whatever k is, so that even what batches decide is the same."""
    from wif_store.builder import scan
    from wif_store.extract.engine import open_engine

    monkeypatch.setattr(scan, "LEAST_BLOCK", 8)
    engine = open_engine(str(tiny_models(architecture)), PROTOCOL, sequence_layers="1,3", dtype=dtype)
    source = source_of(tmp_path, 90)
    stores = []
    for k in (4, 8):
        build_store(settings(per_class=k), source, engine, tmp_path / f"{k}.zarr")
        stores.append(open_store(tmp_path / f"{k}.zarr"))
    assert_prefix(*stores)


def test_k_of_64_is_the_prefix_of_128(tmp_path):
    source = source_of(tmp_path, 700)
    for k in (64, 128):
        build_store(settings(per_class=k), source, fake_engine(), tmp_path / f"{k}.zarr")
    assert_prefix(open_store(tmp_path / "64.zarr"), open_store(tmp_path / "128.zarr"))


def assert_prefix(small, large):
    """In each split the rows of one store are the first of the other, in every value."""
    for split in SPLITS:
        count, tokens = small.count(split), small.manifest.splits[split]["tokens"]
        assert count < large.count(split)
        assert small.table(split).equals(large.table(split).slice(0, count))
        np.testing.assert_array_equal(small.offsets(split), large.offsets(split)[: count + 1])
        np.testing.assert_array_equal(small.token_ids(split), large.token_ids(split)[:tokens])
        for layer in small.layers:
            here, there = (store.read_final_token(layer, split)[0] for store in (small, large))
            np.testing.assert_array_equal(here, there[:count])
        for layer in small.sequence_layers:
            here, there = (store.read_sequences(layer, split)[0] for store in (small, large))
            np.testing.assert_array_equal(here, there[:tokens])


class Seen(Progress):
    """Keeps what it is told."""

    def __init__(self, folder):
        self.folder, self.written, self.phases = folder, [], []
        self.at_scan = []

    def scanned(self, parts, tokens):
        shards = len(list(self.folder.rglob("store/*/*/c/*/*/*")))
        blocks = {p.name for p in self.folder.rglob("*.residuals")}
        self.at_scan.append((sum(part.tally.seen for part in parts.values()), tokens, shards, blocks))

    def writing(self, done, total):
        self.written.append((done, total))

    def phase(self, name):
        self.phases.append(name)


def test_shards_are_written_and_the_journal_shrinks_while_the_scan_goes_on(tmp_path, monkeypatch):
    small_shards(monkeypatch)
    source, seen = source_of(tmp_path, 300), Seen(tmp_path / "s.zarr.partial")
    # As slow as a model is: made-up records would outrun what is written.
    engine = fake_engine(seconds=0.02)
    report = build_store(settings(per_class=40), source, engine, tmp_path / "s.zarr", seen)
    counts, tokens, shards, blocks = zip(*seen.at_scan, strict=True)
    assert list(counts) == sorted(counts)
    assert list(tokens) == sorted(tokens)
    assert tokens[-1] == report.tokens
    # How far the shards are depends on the machine, but some are there before the scan ends.
    assert shards[-1] > 3
    appeared = set().union(*blocks)
    assert len(blocks[-1]) < len(appeared)
    assert report.durable_share > 0
    done, totals = zip(*seen.written, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}
    assert done[0] / done[-1] == report.durable_share
    verify_store(tmp_path / "s.zarr")


def test_peak_of_the_disk_is_less_than_two_stores(tmp_path, monkeypatch):
    """The journal holds raw values of what is not in shards yet; a store all of them."""
    small_shards(monkeypatch)
    source, sizes = source_of(tmp_path, 400), []

    class Measuring(Progress):
        def scanned(self, parts, tokens):
            sizes.append(sum(p.stat().st_size for p in (tmp_path / "s.zarr.partial").rglob("*.residuals")))

    engine = fake_engine(d_model=64, seconds=0.02)
    build_store(settings(per_class=60), source, engine, tmp_path / "s.zarr", Measuring())
    raw = sum(
        p.stat().st_size for p in (tmp_path / "s.zarr").rglob("*") if {"sequence", "final_token"} & {*p.parts}
    )
    assert max(sizes) < 0.7 * raw


def test_the_report_and_the_manifest_say_the_same(source, tmp_path):
    report = build_store(settings(seed=3), source, fake_engine(), tmp_path / "s.zarr")
    manifest = open_store(tmp_path / "s.zarr").manifest
    assert report.selection == manifest.selection
    assert report.audit == manifest.audit
    assert manifest.outcome == "choice"
    assert manifest.selection["seed"] == 3
    assert manifest.selection["per_class"] == "max"
    assert manifest.selection["rows"] == 60
    assert manifest.sites == {"final_token": "the last token of what is read"}
    assert manifest.layers == {"final_token": [0, 1, 2], "sequence": [0, 1]}
    assert 0 <= report.durable_share <= 1


def test_the_mass_of_the_scored_answers_is_reported(source, tmp_path):
    engine = fake_engine()

    def extract(requests):
        return [
            replace(r, answer_mass=0.25 if i % 2 else math.nan)
            for i, r in enumerate(engine.extract(requests))
        ]

    build_store(settings(), source, replace(engine, extract=extract), tmp_path / "s.zarr")
    assert open_store(tmp_path / "s.zarr").manifest.selection["answer_mass"] == 0.25
    build_store(settings(), source, engine, tmp_path / "t.zarr")
    assert open_store(tmp_path / "t.zarr").manifest.selection["answer_mass"] is None


class Short(FakeExtract):
    """A model whose context is short."""

    def too_long(self, requests):
        return [len(request.pairs[0][0]) > 100 for request in requests]


def test_rows_beyond_the_context_are_left_out_and_counted(source, tmp_path):
    engine = replace(fake_engine(), extract=Short(3, 2, 16))
    lengths = {c.id: len(TASK.request(c, PROTOCOL).pairs[0][0]) for c in source.candidates}
    beyond = {id for id, length in lengths.items() if length > 100}
    assert 0 < len(beyond) < 30
    build_store(settings(skip_too_long=True), source, engine, tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    assert store.manifest.selection["too_long"] == len(beyond)
    assert not beyond & set(store.column("id"))
    build_store(settings(), source, engine, tmp_path / "t.zarr")
    assert open_store(tmp_path / "t.zarr").manifest.selection["too_long"] == 0
    assert beyond & set(open_store(tmp_path / "t.zarr").column("id"))


@pytest.mark.parametrize("fails", [False, True])
def test_the_collector_leaves_alone_what_was_there_before(fails, source, tmp_path):
    engine, spared = fake_engine(), []

    def extract(requests):
        spared.append(gc.get_freeze_count())
        if fails:
            raise KeyboardInterrupt
        return engine.extract(requests)

    before = gc.get_freeze_count()
    with pytest.raises(KeyboardInterrupt) if fails else nullcontext():
        build_store(settings(), source, replace(engine, extract=extract), tmp_path / "s.zarr")
    assert min(spared) > before + 10_000
    assert gc.get_freeze_count() == 0


def test_the_run_log_stands_beside_the_store(source, tmp_path):
    build_store(settings(), source, fake_engine(), tmp_path / "s.zarr")
    entry = json.loads((tmp_path / "s.zarr.log.jsonl").read_text())
    assert {"finished", "host", "scan_seconds", "durable_share"} <= entry.keys()
    manifest = (tmp_path / "s.zarr" / "manifest.json").read_text()
    assert entry["host"] not in manifest
    assert "seconds" not in manifest


def test_a_second_run_adds_a_line_to_the_log(source, tmp_path):
    for _ in range(2):
        build_store(settings(), source, fake_engine(), tmp_path / "s.zarr")
        (tmp_path / "s.zarr").rename(tmp_path / "before.zarr")
        for path in sorted((tmp_path / "before.zarr").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (tmp_path / "before.zarr").rmdir()
    assert len((tmp_path / "s.zarr.log.jsonl").read_text().splitlines()) == 2


def test_the_audit_of_a_build_names_what_it_finds(tmp_path):
    """Two rows that differ by one character stand in two groups, so that they may cross splits."""
    rows = tiny.rows(80)
    twins = [{**row, "option1": row["option1"] + "s", "sentence": row["sentence"] + "!"} for row in rows]
    source = load_source(TASK, str(tiny.write_rows(tmp_path / "rows.jsonl", [*rows, *twins])))
    report = build_store(settings(), source, fake_engine(), tmp_path / "s.zarr")
    near = report.audit["named"]["near_duplicates_across_splits"]
    assert report.audit["counts"]["near_duplicates_across_splits"] >= len(near) > 0
    assert report.audit["counts"]["groups_across_splits"] == 0
    ids = ids_of(open_store(tmp_path / "s.zarr"))
    assert not set(near) & set(ids["train"])
