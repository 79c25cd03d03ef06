"""The seam between a build and its workers: neither order nor number of the workers changes a byte."""

from __future__ import annotations

import pickle
import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.support.builds import contents, objects, settings, small_shards, source_of
from tests.support.fake_engine import fake_engine
from wif_store.builder import workers as seam
from wif_store.builder.journal import Journal
from wif_store.builder.pipeline import build_store
from wif_store.builder.shards import write_shard
from wif_store.builder.workers import LocalWorkers, Outcome
from wif_store.errors import BuildError
from wif_store.storage import PARTIAL, storage_of


class RemoteWorkers:
    """Several jobs are out at once, and come back as pickles and in any order; shards are written last."""

    def __init__(self, extract, out, seed, held=3):
        self.extract, self.out, self.held = extract, out, held
        self.rng = random.Random(seed)
        self.names = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def scan(self, jobs, journal):
        for job in self.shuffled(jobs):
            records = self.extract(job.requests)
            judged = job.judged(records)
            outcome = Outcome.of(job, records, judged)
            job.journal(records, judged, Journal(self.out))
            self.names.append(job.name)
            yield pickle.loads(pickle.dumps(outcome))

    def write(self, job, journal):
        done = Future()
        done.set_result(
            pickle.loads(pickle.dumps(write_shard(pickle.loads(pickle.dumps(job)), Journal(self.out))))
        )
        return done

    def too_long(self, requests):
        return [False] * len(requests)

    def shuffled(self, jobs):
        out = []
        for job in jobs:
            out.append(pickle.dumps(job))
            if len(out) == self.held:
                yield pickle.loads(out.pop(self.rng.randrange(len(out))))
        self.rng.shuffle(out)
        yield from map(pickle.loads, out)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return source_of(tmp_path_factory.mktemp("rows"), 90)


@pytest.mark.parametrize("per_class", [None, 12])
@pytest.mark.parametrize("seed", range(3))
def test_blocks_in_any_order_end_in_the_same_bytes(per_class, seed, source, tmp_path, monkeypatch):
    small_shards(monkeypatch)
    local, out = tmp_path / "local.zarr", tmp_path / "s.zarr"
    report = build_store(settings(per_class=per_class), source, fake_engine(), local)
    remote = RemoteWorkers(fake_engine().extract, str(out), seed)
    other = build_store(settings(per_class=per_class), source, fake_engine(), out, workers=remote)
    assert remote.names != sorted(remote.names)
    assert other.selection == report.selection
    assert contents(out) == contents(local)
    assert not (tmp_path / "s.zarr.partial").exists()


class ScatteredWorkers(RemoteWorkers):
    """Shards are written by three at once, each as late as it likes."""

    def __enter__(self):
        self.pool = ThreadPoolExecutor(3)
        self.written = []
        return self

    def __exit__(self, *error):
        self.pool.shutdown(wait=True, cancel_futures=True)

    def write(self, job, journal):
        return self.pool.submit(self.late, job, self.rng.uniform(0, 0.03))

    def late(self, job, seconds):
        time.sleep(seconds)
        shard = write_shard(pickle.loads(pickle.dumps(job)), Journal(self.out))
        self.written.append(job.path)
        return pickle.loads(pickle.dumps(shard))


@pytest.mark.parametrize("where", ["folder", "url"])
def test_shards_written_in_any_order_end_in_the_same_bytes(where, source, tmp_path, bucket, monkeypatch):
    small_shards(monkeypatch)
    local = tmp_path / "local.zarr"
    build_store(settings(), source, fake_engine(), local)
    out = str(tmp_path / "s.zarr") if where == "folder" else f"{bucket}/s.zarr"
    scattered = ScatteredWorkers(fake_engine().extract, out, 1)
    build_store(settings(), source, fake_engine(), out, workers=scattered)
    assert (objects(out) if where == "url" else contents(tmp_path / "s.zarr")) == contents(local)
    assert len(scattered.written) == len(set(scattered.written))
    for array in ("final_token", "sequence"):
        of_train = [path for path in scattered.written if path.startswith(f"train/{array}/")]
        assert len(of_train) > 2
    assert scattered.written != sorted(scattered.written)
    assert not storage_of(f"{out}.partial").exists()


class DyingWorkers(RemoteWorkers):
    """One worker is killed in the middle of a shard, which another then writes."""

    def write(self, job, journal):
        journal.store.write(f"{job.path}.00000000{PARTIAL}", [b"half"])
        return super().write(job, journal)


def test_what_a_killed_worker_leaves_is_not_in_the_store(source, tmp_path):
    build_store(settings(), source, fake_engine(), tmp_path / "local.zarr")
    out = tmp_path / "s.zarr"
    dying = DyingWorkers(fake_engine().extract, str(out), 0)
    build_store(settings(), source, fake_engine(), out, workers=dying)
    assert contents(out) == contents(tmp_path / "local.zarr")


@pytest.mark.parametrize("first", [0, 1])
def test_other_workers_take_up_what_some_have_left(first, source, tmp_path, monkeypatch):
    small_shards(monkeypatch)
    build_store(settings(), source, fake_engine(), tmp_path / "local.zarr")
    out, engine = tmp_path / "s.zarr", fake_engine()
    kinds = [
        lambda: RemoteWorkers(engine.extract, str(out), 1),
        lambda: LocalWorkers(engine.extract),
    ]
    stopped = kinds[first]()
    scan = stopped.scan

    def fails(jobs, journal):
        for number, outcome in enumerate(scan(jobs, journal)):
            yield outcome
            if number == 3:
                raise KeyboardInterrupt

    stopped.scan = fails
    with pytest.raises(KeyboardInterrupt):
        build_store(settings(), source, engine, out, workers=stopped)
    report = build_store(settings(), source, engine, out, workers=kinds[1 - first]())
    assert report.resumed_blocks >= 4
    assert contents(out) == contents(tmp_path / "local.zarr")


def test_a_block_is_journalled_while_the_next_is_extracted(source, tmp_path, monkeypatch):
    """With one thread after the other this would wait for ever, that is, until the barrier gives up."""
    small_shards(monkeypatch)
    together = threading.Barrier(2, timeout=20)
    engine, journal = fake_engine(), seam.BlockJob.journal

    def waiting(self, records, judged, where):
        if self.name == "train-000000":
            together.wait()
        journal(self, records, judged, where)

    def extract(requests):
        if len(engine.extract.calls) == 1:
            together.wait()
        return engine.extract(requests)

    monkeypatch.setattr(seam.BlockJob, "journal", waiting)
    build_store(settings(), source, replace(engine, extract=extract), tmp_path / "s.zarr")
    assert not together.broken


def test_what_the_journalling_thread_meets_ends_the_build(source, tmp_path, monkeypatch):
    small_shards(monkeypatch)
    engine = fake_engine()

    def full(self, records, judged, journal):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(seam.BlockJob, "journal", full)
    with pytest.raises(BuildError, match="No space left on device; free some space"):
        build_store(settings(), source, engine, tmp_path / "s.zarr")
    assert len(engine.extract.calls) <= 3


def test_what_the_writing_thread_meets_ends_the_build(source, tmp_path, monkeypatch):
    def full(storage, name, parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wif_store.builder.shards.write_described", full)
    with pytest.raises(BuildError, match="No space left on device; free some space"):
        build_store(settings(), source, fake_engine(), tmp_path / "s.zarr")


def test_an_interrupt_waits_for_the_block_that_is_being_journalled(source, tmp_path, monkeypatch):
    small_shards(monkeypatch)
    out, engine = tmp_path / "s.zarr", fake_engine()
    begun, interrupted = threading.Event(), threading.Event()
    journal = seam.BlockJob.journal

    def late(self, records, judged, where):
        begun.set()
        interrupted.wait(20)
        journal(self, records, judged, where)

    def extract(requests):
        if engine.extract.calls:
            begun.wait(20)
            threading.Timer(0.1, interrupted.set).start()
            raise KeyboardInterrupt
        return engine.extract(requests)

    monkeypatch.setattr(seam.BlockJob, "journal", late)
    with pytest.raises(KeyboardInterrupt):
        build_store(settings(), source, replace(engine, extract=extract), out)
    assert Journal(out).blocks.names() == {"train-000000"}
