"""The seam between a build and who works for it: order, number and place of the workers change no byte."""

from __future__ import annotations

import pickle
import random
import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import tiny
from tests.support.fake_engine import fake_engine
from tests.builder.test_pipeline import TASK, contents, settings
from wif_store import codecs, crew
from wif_store.builder.pipeline import build
from wif_store.builder.workers import LocalWorkers, Outcome
from wif_store.errors import BuildError
from wif_store.builder.journal import Journal
from wif_store.storage import PARTIAL, write_described
from wif_store.builder.selection import Tally
from wif_store.builder.shards import write_shards
from wif_store.tasks.rows import load_source

SMALL = {
    "ZSTD_BLOCK": 32,
    "SEQUENCE_PLANE": 64,
    "FINAL_TOKEN_PLANE": 32,
    "SHARD_BYTES": 4096,
    "EXAMPLES_PER_CHUNK": 4,
}


class FarCrew:
    """Workers elsewhere: several jobs are out at once, and come back as pickles and in any order."""

    def __init__(self, extract, out, seed, held=5):
        self.extract, self.out, self.held = extract, out, held
        self.rng = random.Random(seed)
        self.numbers = []

    def scan(self, jobs, journal):
        for job in self.shuffled(jobs):
            records = self.extract(job.requests)
            outcome = Outcome.of(job, records)
            job.journal(records, Journal(self.out))
            self.numbers.append(job.number)
            yield pickle.loads(pickle.dumps(outcome))

    def write(self, jobs, journal):
        for job in self.shuffled(jobs):
            [shard] = write_shards(Journal(self.out), [job])
            yield pickle.loads(pickle.dumps(shard))

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
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    return load_source(TASK, str(tiny.write_rows(path, tiny.rows(90))))


@pytest.mark.parametrize("per_class", [None, 12])
@pytest.mark.parametrize("seed", range(3))
def test_blocks_and_shards_in_any_order_end_in_the_same_bytes(per_class, seed, source, tmp_path, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(codecs, name, value)
    whole, out = tmp_path / "whole.zarr", tmp_path / "s.zarr"
    report = build(settings(per_class=per_class), source, fake_engine(), whole)
    far = FarCrew(fake_engine().extract, str(out), seed)
    other = build(settings(per_class=per_class), source, fake_engine(), out, crew=far)
    assert far.numbers != sorted(far.numbers)
    assert (other.blocks, other.selection) == (report.blocks, report.selection)
    assert contents(out) == contents(whole)
    assert not (tmp_path / "s.zarr.partial").exists()


class DyingCrew(FarCrew):
    """One worker is killed in the middle of a shard, which another then writes."""

    def write(self, jobs, journal):
        for shard in super().write(jobs, journal):
            half = f"{shard.name}.00000000{PARTIAL}"
            journal.store.write(half, [b"half"])
            yield shard


def test_what_a_killed_worker_leaves_is_not_in_the_store(source, tmp_path):
    build(settings(), source, fake_engine(), tmp_path / "whole.zarr")
    out = tmp_path / "s.zarr"
    build(settings(), source, fake_engine(), out, crew=DyingCrew(fake_engine().extract, str(out), 0))
    assert contents(out) == contents(tmp_path / "whole.zarr")


@pytest.mark.parametrize("first", [0, 1])
def test_another_crew_takes_up_what_one_has_left(first, source, tmp_path):
    whole, out = tmp_path / "whole.zarr", tmp_path / "s.zarr"
    build(settings(per_class=20), source, fake_engine(), whole)
    engine = fake_engine()
    crews = [FarCrew(engine.extract, str(out), 1), LocalWorkers(engine.extract)]

    def fails(self, jobs, journal):
        for number, outcome in enumerate(scan(self, jobs, journal)):
            yield outcome
            if number == 3:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        scan = type(crews[first]).scan
        patch.setattr(type(crews[first]), "scan", fails)
        with pytest.raises(KeyboardInterrupt):
            build(settings(per_class=20), source, engine, out, crew=crews[first])
    report = build(settings(per_class=20), source, engine, out, crew=crews[1 - first])
    assert report.resumed_blocks == 4
    assert len(engine.extract.calls) == len({tuple(c) for c in engine.extract.calls})
    assert contents(out) == contents(whole)


def test_a_block_is_journalled_while_the_next_is_extracted(source, tmp_path):
    """With one thread after the other this would wait for ever, that is, until the barrier gives up."""
    together = threading.Barrier(2, timeout=20)
    engine = fake_engine()

    class Slow(LocalWorkers):
        def scan(self, jobs, journal):
            write = journal.blocks.write

            def writing(number, records, wanted):
                if number == 0:
                    together.wait()
                write(number, records, wanted)

            journal.blocks.write = writing
            return super().scan(jobs, journal)

    def extract(requests):
        if len(engine.extract.calls) == 1:
            together.wait()
        return engine.extract(requests)

    build(settings(), source, engine, tmp_path / "s.zarr", crew=Slow(extract))
    assert not together.broken


def test_two_blocks_are_journalled_at_once_where_cores_are_many(source, tmp_path, monkeypatch):
    build(settings(), source, fake_engine(), tmp_path / "alone.zarr")
    together = threading.Barrier(2, timeout=20)
    engine, journal = fake_engine(), crew.BlockJob.journal

    def both(self, records, where):
        if self.number < 2:
            together.wait()
        journal(self, records, where)

    monkeypatch.setattr(crew.BlockJob, "journal", both)
    build(settings(), source, engine, tmp_path / "s.zarr", crew=LocalWorkers(engine.extract, crew.MANY_CORES))
    assert not together.broken
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "alone.zarr")


@pytest.mark.parametrize(("cores", "in_hand"), [(1, 2), (crew.MANY_CORES, 3)])
def test_what_the_journalling_thread_meets_ends_the_build(cores, in_hand, source, tmp_path, monkeypatch):
    engine, out = fake_engine(), tmp_path / "s.zarr"

    def full(self, records, journal):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(crew.BlockJob, "journal", full)
    with pytest.raises(BuildError, match="No space left on device; free some space"):
        build(settings(), source, engine, out, crew=LocalWorkers(engine.extract, cores))
    assert len(engine.extract.calls) == in_hand


def test_an_interrupt_waits_for_the_block_that_is_being_journalled(source, tmp_path, monkeypatch):
    out, engine = tmp_path / "s.zarr", fake_engine()
    begun, interrupted = threading.Event(), threading.Event()
    journal = crew.BlockJob.journal

    def late(self, records, where):
        begun.set()
        interrupted.wait(20)
        journal(self, records, where)

    def extract(requests):
        if engine.extract.calls:
            begun.wait(20)
            threading.Timer(0.1, interrupted.set).start()
            raise KeyboardInterrupt
        return engine.extract(requests)

    monkeypatch.setattr(crew.BlockJob, "journal", late)
    with pytest.raises(KeyboardInterrupt):
        build(settings(), source, replace(engine, extract=extract), out)
    assert Journal(out).blocks.numbers() == {0}


def test_a_stopped_crew_repeats_no_shard(source, tmp_path, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(codecs, name, value)
    whole, out = tmp_path / "whole.zarr", tmp_path / "s.zarr"
    build(settings(), source, fake_engine(), whole)
    names = []

    def noting(place, name, parts):
        names.append(name)
        if len(names) == 5:
            raise KeyboardInterrupt
        return write_described(place, name, parts)

    monkeypatch.setattr("wif_store.builder.shards.write_described", noting)
    with pytest.raises(KeyboardInterrupt):
        build(settings(), source, fake_engine(), out)
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "s.zarr.partial" / "store").rglob("c/*/*/0")}
    assert len(done) == 4
    build(settings(), source, fake_engine(), out)
    assert names[4] == names[5]
    assert len(names) == len(set(names)) + 1
    assert contents(out) == contents(whole)


@given(
    outcomes=st.lists(st.booleans(), min_size=2, max_size=60),
    per_class=st.none() | st.integers(1, 12),
    block=st.integers(1, 9),
    behind=st.integers(0, 4),
)
def test_what_is_kept_was_wanted_however_little_was_known(outcomes, per_class, block, behind):
    """A block that is given out while ``behind`` blocks before it are out keeps all that a build may want."""
    wanted, tally = [], Tally(per_class, len(outcomes))
    for start in range(0, len(outcomes), block):
        known = Tally(per_class, len(outcomes))
        for outcome in outcomes[: max(0, start - behind * block)]:
            known.visit(outcome)
        wanted += known.keep().wanted(outcomes[start : start + block])
    for outcome in outcomes:
        tally.visit(outcome)
    k = min(tally.successes, tally.failures)
    if k and (per_class is None or k >= per_class):
        positions, _ = tally.settle()
        assert all(wanted[p] for p in positions)
    if per_class is not None and not behind:
        assert sum(wanted) <= 2 * per_class + block
