"""The build: what it keeps, what it writes, and that stopping it changes nothing."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from tests.support import tiny
from tests.support.fake_engine import fake_engine
from wif_store.builder.pipeline import Settings, build
from wif_store.errors import BuildError, DamageError, SelectionError, SourceError, StoreError
from wif_store.storage import LocalStorage
from wif_store.records import widen
from wif_store.format.schema import ARRAYS
from wif_store.tasks.rows import load_source
from wif_store.store.reader import open_store
from wif_store.tasks import get_task
from wif_store.store.verify import verify_store

TASK = get_task("winogrande")


def settings(**changes):
    return replace(Settings(TASK, TASK.protocol("aligned"), per_class=None), **changes)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    return load_source(TASK, str(tiny.write_rows(path, tiny.rows(60))))


def contents(store: Path) -> dict[str, str]:
    files = (p for p in store.rglob("*") if p.is_file())
    return {p.relative_to(store).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_what_is_written_is_what_was_extracted(source, tmp_path):
    engine = fake_engine()
    build(settings(), source, engine, tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    assert verify_store(tmp_path / "s.zarr").examples == len(store)
    by_id = {c.id: TASK.request(c, TASK.protocol("aligned")) for c in source.candidates}
    for split in ("train", "validation", "test"):
        examples = store.examples(split)
        sequences = [list(store.iter_sequences(layer, split)) for layer in store.sequence_layers]
        flat, offsets = store.read_sequences(1, split)
        np.testing.assert_array_equal(np.concatenate(sequences[1]), flat)
        assert offsets[0] == 0
        assert offsets[-1] == len(flat)
        for i, example in enumerate(examples):
            record = engine.extract.record(by_id[example.id])
            assert example.split == split
            np.testing.assert_array_equal(example.token_ids, record.token_ids)
            assert example.choice_logprobs == tuple(record.logprobs)
            assert example.prompt == record.prompt
            for layer in store.layers:
                stored, success = store.read_final_token(layer, split)
                np.testing.assert_array_equal(stored[i], widen(record.final_token)[layer])
                assert success[i] == example.success == (example.prediction == example.gold)
            for n, layer in enumerate(store.sequence_layers):
                np.testing.assert_array_equal(sequences[n][i], widen(record.sequence)[layer])


def test_zarr_and_xarray_read_it_without_us(source, tmp_path):
    out = tmp_path / "s.zarr"
    build(settings(), source, fake_engine(), out)
    group = zarr.open_group(out, mode="r")
    assert set(dict(group.arrays())) == set(ARRAYS)
    opened = xarray.open_zarr(out)
    assert opened["final_token"].dims == ("layer", "example", "d_model")
    assert opened["sequence"].dims == ("sequence_layer", "token", "d_model")
    assert opened["layer"].values.tolist() == [0, 1, 2]
    assert all(opened[name].attrs["description"] for name in opened.variables)
    np.testing.assert_array_equal(opened["final_token"].sel(layer=1), open_store(out).read_final_token(1)[0])


def test_balanced_and_stratified(source, tmp_path):
    build(settings(per_class=12), source, fake_engine(), tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    sizes = {split: (n["examples"], n["successes"]) for split, n in store.manifest.splits.items()}
    assert sizes == {"train": (12, 6), "validation": (6, 3), "test": (6, 3)}
    assert store.manifest.selection["k"] == 12


def test_the_first_k_of_each_class_in_visit_order_are_kept_whatever_the_block(source, tmp_path):
    kept = []
    for block in (1, 7, 64):
        out = tmp_path / f"{block}.zarr"
        build(settings(per_class=10), source, fake_engine(block=block), out)
        store = open_store(out)
        selection = {k: v for k, v in store.manifest.selection.items() if k != "block"}
        kept.append(([(e.id, e.split, e.success) for e in store.examples()], selection))
    assert kept[0] == kept[1] == kept[2]


def test_a_larger_k_keeps_what_a_smaller_one_keeps(source, tmp_path):
    ids = []
    for k in (5, 15):
        build(settings(per_class=k), source, fake_engine(), tmp_path / f"{k}.zarr")
        ids.append({(e.id, e.split) for e in open_store(tmp_path / f"{k}.zarr").examples()})
    assert ids[0] < ids[1]


def test_k_that_cannot_be_reached(source, tmp_path):
    with pytest.raises(
        SelectionError, match=r"expected 500 of each; --per-class \d+ or --per-class max would"
    ):
        build(settings(per_class=500), source, fake_engine(), tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()
    # What was scanned is kept: a k within reach costs nothing more. It is another plan, so another folder.
    assert (tmp_path / "s.zarr.partial").is_dir()


def test_a_failure_between_blocks_is_resumed_without_repeating_any(source, tmp_path):
    whole, out = tmp_path / "whole.zarr", tmp_path / "s.zarr"
    build(settings(), source, fake_engine(), whole)
    engine = fake_engine()
    extract, runs = engine.extract, []

    def fails_in_the_third(requests):
        runs.append(requests[0].id)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return extract(requests)

    with pytest.raises(KeyboardInterrupt):
        build(settings(), source, replace(engine, extract=fails_in_the_third), out)
    with pytest.raises(StoreError, match="unfinished"):
        open_store(out)
    report = build(settings(), source, engine, out)
    assert report.resumed_blocks == 2
    assert runs[2] == engine.extract.calls[2][0]
    assert contents(out) == contents(whole)
    assert not (tmp_path / "s.zarr.partial").exists()


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
        build(settings(), source, replace(engine, extract=extract), tmp_path / "s.zarr")
    assert min(spared) > before + 10_000
    assert gc.get_freeze_count() == 0


def test_the_run_log_stands_beside_the_store(source, tmp_path):
    build(settings(), source, fake_engine(), tmp_path / "s.zarr")
    entry = json.loads((tmp_path / "s.zarr.log.jsonl").read_text())
    assert {"finished", "host", "scan_seconds"} <= entry.keys()
    manifest = (tmp_path / "s.zarr" / "manifest.json").read_text()
    assert entry["host"] not in manifest
    assert "seconds" not in manifest


def test_the_same_build_again_does_nothing(source, tmp_path):
    build(settings(), source, fake_engine(), tmp_path / "s.zarr")
    before = contents(tmp_path / "s.zarr")
    engine = fake_engine()
    assert build(settings(), source, engine, tmp_path / "s.zarr").already_built
    assert engine.extract.calls == []
    assert contents(tmp_path / "s.zarr") == before


def test_another_build_does_not_overwrite(source, tmp_path):
    build(settings(), source, fake_engine(), tmp_path / "s.zarr")
    before = contents(tmp_path / "s.zarr")
    with pytest.raises(BuildError, match=r"another selection\.seed \(found 0, expected 1\)"):
        build(settings(seed=1), source, fake_engine(), tmp_path / "s.zarr")
    assert contents(tmp_path / "s.zarr") == before


def test_an_unfinished_build_with_other_settings_is_left_alone(source, tmp_path):
    with pytest.raises(SelectionError):
        build(settings(per_class=500), source, fake_engine(), tmp_path / "s.zarr")
    with pytest.raises(BuildError, match="unfinished build with another selection"):
        build(settings(per_class=5), source, fake_engine(), tmp_path / "s.zarr")


def test_a_folder_that_holds_something_else(source, tmp_path):
    (tmp_path / "s.zarr").mkdir()
    (tmp_path / "s.zarr" / "thesis.txt").write_text("precious")
    with pytest.raises(BuildError, match="exists and is not a whole store"):
        build(settings(), source, fake_engine(), tmp_path / "s.zarr")
    assert (tmp_path / "s.zarr" / "thesis.txt").read_text() == "precious"


def test_two_builds_on_one_folder(source, tmp_path):
    engine = fake_engine()

    def second(requests):
        with pytest.raises(BuildError, match="another build is writing"):
            build(settings(), source, fake_engine(), tmp_path / "s.zarr")
        return engine.extract(requests)

    build(settings(), source, replace(engine, extract=second), tmp_path / "s.zarr")
    assert verify_store(tmp_path / "s.zarr").examples


def test_published_splits(tmp_path):
    splits = ["train", "test", "validation"]
    rows = [{**row, "paper_split": splits[i % 3]} for i, row in enumerate(tiny.rows(60))]
    source = load_source(TASK, str(tiny.write_rows(tmp_path / "rows.jsonl", rows)))
    build(settings(splits="published"), source, fake_engine(), tmp_path / "s.zarr")
    for example in open_store(tmp_path / "s.zarr").examples():
        assert example.split == splits[example.source_row % 3]
    bare = load_source(TASK, str(tiny.write_rows(tmp_path / "bare.jsonl", tiny.rows(60))))
    with pytest.raises(SourceError, match="carries the split None"):
        build(settings(splits="published"), bare, fake_engine(), tmp_path / "t.zarr")


@pytest.mark.parametrize("victim", ["final_token/c/1/0/0", "sequence/c/0/0/0", "success/c/0", "zarr.json"])
@pytest.mark.parametrize("how", ["missing", "empty", "flipped"])
def test_damage_never_reads_as_numbers(source, tmp_path, victim, how):
    out = tmp_path / "s.zarr"
    build(settings(), source, fake_engine(), out)
    path = out / victim
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
    with pytest.raises(StoreError):
        verify_store(out)
    if victim != "zarr.json":  # one flipped bit of JSON may still be JSON: that is verify's to find
        with pytest.raises(DamageError):
            store = open_store(out)
            for layer in store.layers:
                store.read_final_token(layer)
            for layer in store.sequence_layers:
                store.read_sequences(layer)
            store.examples()


def test_another_format_version(source, tmp_path):
    out = tmp_path / "s.zarr"
    build(settings(), source, fake_engine(), out)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(
        StoreError, match=r"manifest.json has format version 99; this wif-store reads version 1"
    ):
        open_store(out)


def test_a_full_disk_is_said_and_resumed(source, tmp_path, monkeypatch):
    """The journal's own writes meet a full file system: /dev/full is one."""
    out = tmp_path / "s.zarr"
    whole = tmp_path / "whole.zarr"
    build(settings(), source, fake_engine(), whole)
    write = LocalStorage.write

    def full(self, name, parts):
        if "000002" in name:
            with Path("/dev/full").open("wb", buffering=0) as device:
                device.write(b"x")
        return write(self, name, parts)

    monkeypatch.setattr(LocalStorage, "write", full)
    with pytest.raises(
        BuildError, match=r"No space left on device; free some space and run the same command"
    ):
        build(settings(), source, fake_engine(), out)
    monkeypatch.undo()
    assert build(settings(), source, fake_engine(), out).resumed_blocks == 2
    assert contents(out) == contents(whole)


KILLED = """
import sys, time
from tests.support.fake_engine import fake_engine
from tests.builder.test_pipeline import TASK, settings
from wif_store.builder.pipeline import build
from wif_store.tasks.rows import load_source
from pathlib import Path

engine = fake_engine(block=4, d_model=64)
extract = engine.extract.__class__.__call__
def slow(self, requests):
    time.sleep(0.02)
    return extract(self, requests)
engine.extract.__class__.__call__ = slow
build(settings(), load_source(TASK, sys.argv[1]), engine, Path(sys.argv[2]))
"""


def test_killed_at_random_instants_and_resumed(source, tmp_path):
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(60))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

    def command(out):
        return [sys.executable, "-c", KILLED, str(rows), str(out)]

    subprocess.run(command(tmp_path / "whole.zarr"), env=environment, check=True)
    rng = np.random.default_rng(7)
    out = tmp_path / "s.zarr"
    killed = 0
    for _ in range(6):
        process = subprocess.Popen(command(out), env=environment)
        # Imports take most of a second; the build itself a third of one.
        while not (tmp_path / "s.zarr.partial").exists() and not out.exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0, 0.35)))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if not out.exists():
            with pytest.raises(StoreError):
                open_store(out)
    subprocess.run(command(out), env=environment, check=True)
    assert killed
    assert contents(out) == contents(tmp_path / "whole.zarr")
    shutil.rmtree(out)
