"""A build that was stopped, wherever it was, and resumed has the bytes of one that never was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.builds import contents, nothing_partial, settings, small_shards, source_of
from tests.support.fake_engine import FakeExtract, fake_engine
from wif_store.builder.blocks import Blocks
from wif_store.builder.journal import Journal
from wif_store.builder.pipeline import build_store
from wif_store.builder.writer import SplitWriter
from wif_store.errors import BuildError, StoreError
from wif_store.storage import LocalStorage, write_described
from wif_store.store.reader import open_store

ROOT = Path(__file__).parents[2]
ROWS, PAIRS = 200, 28


class Stopped(BaseException):
    """A kill, as far as files are concerned."""


def stop(*args, **kwargs):
    raise Stopped


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_shards(monkeypatch)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return source_of(tmp_path_factory.mktemp("rows"), ROWS)


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    """The files of the build that is never stopped."""
    out = tmp_path_factory.mktemp("undisturbed") / "s.zarr"
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        patch.setattr(os, "fsync", lambda descriptor: None)
        build(source, out)
    return contents(out)


def build(source, out, engine=None):
    return build_store(settings(per_class=PAIRS), source, engine or fake_engine(), out)


class Changes:
    """Counts the changes that a build makes in its storage, and stops it at one of them."""

    def __init__(self, patch, at=None, *, after=False):
        self.at, self.after = at, after
        self.made, self.removed = [], 0
        for name in ("write", "remove", "rename"):
            patch.setattr(LocalStorage, name, self.counting(name, getattr(LocalStorage, name)))
        remove = Blocks.remove_residuals

        def removing(blocks, name):
            remove(blocks, name)
            self.removed += 1

        patch.setattr(Blocks, "remove_residuals", removing)

    def counting(self, name, change):
        def counted(storage, *given):
            number = len(self.made)
            self.made.append((name, *map(str, given[:1])))
            if number == self.at and not self.after:
                raise Stopped
            result = change(storage, *given)
            if number == self.at:
                raise Stopped
            return result

        return counted


@pytest.fixture(scope="module")
def changes(source, undisturbed, tmp_path_factory):
    """All changes of a build, in the order that they are made."""
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        patch.setattr(os, "fsync", lambda descriptor: None)
        counted = Changes(patch)
        build(source, tmp_path_factory.mktemp("counted") / "s.zarr")
    assert counted.removed > 10
    return counted.made


def stopped_and_resumed(source, out, undisturbed, at, *, after):
    with pytest.MonkeyPatch.context() as patch:
        counted = Changes(patch, at, after=after)
        try:
            build(source, out)
        except (Stopped, BuildError):
            pass
        else:
            return counted.removed  # threads take turns as they like: it made a change less
    if not out.exists():
        with pytest.raises(StoreError):
            open_store(out)
    build(source, out)
    assert contents(out) == undisturbed, counted.made[at]
    assert nothing_partial(out.parent) == []
    return counted.removed


def points(changes, step):
    return [(at, after) for at in range(len(changes)) for after in (False, True)][::step]


def test_stopped_at_changes_of_the_storage(source, undisturbed, changes, tmp_path):
    every = points(changes, 1)
    shrunk = 0
    for at, after in random.Random(3).sample(every, 14):
        out = tmp_path / f"{at}-{after:d}" / "s.zarr"
        shrunk += stopped_and_resumed(source, out, undisturbed, at, after=after) > 0
    assert shrunk > 3, "the journal had shrunk before some of the stops"


@pytest.mark.slow
def test_stopped_at_every_change_of_the_storage(source, undisturbed, changes, tmp_path):
    for at, after in points(changes, 1):
        out = tmp_path / f"{at}-{after:d}" / "s.zarr"
        stopped_and_resumed(source, out, undisturbed, at, after=after)


def test_stopped_again_and_again(source, undisturbed, changes, tmp_path):
    """Each call makes a few changes more, until one is left to finish."""
    out, calls = tmp_path / "s.zarr", 0
    for calls in range(1, len(changes)):
        with pytest.MonkeyPatch.context() as patch:
            Changes(patch, 12 * calls, after=bool(calls % 2))
            try:
                build(source, out)
                break
            except Stopped:
                continue
    assert calls >= 3
    assert contents(out) == undisturbed


def stops_at(engine, number):
    extract = engine.extract

    def stopping(requests):
        if len(extract.calls) == number:
            raise KeyboardInterrupt
        return extract(requests)

    return replace(engine, extract=stopping)


def test_stopped_at_every_fifth_block_without_repeating_one(source, undisturbed, tmp_path):
    engine = fake_engine()
    build(source, tmp_path / "counted.zarr", engine)
    count, shrunk = len(engine.extract.calls), 0
    for number in range(1, count, 5):
        # As slow as a model is, so that shards are written meanwhile.
        out, engine = tmp_path / f"{number}.zarr", fake_engine(seconds=0.02)
        with pytest.raises(KeyboardInterrupt):
            build(source, out, stops_at(engine, number))
        journal = Journal(out)
        shrunk += len(journal.blocks.names() - journal.blocks.with_residuals()) > 0
        report = build(source, out, engine)
        # One may have been begun when its split was full, and is not needed.
        assert number - 2 <= report.resumed_blocks <= number
        assert contents(out) == undisturbed
        begun = [calls[0] for calls in engine.extract.calls]
        assert len(begun) == len(set(begun))
    assert shrunk > 1, "the journal had shrunk before some of the stops"


def test_a_stopped_build_repeats_no_shard(source, undisturbed, tmp_path, monkeypatch):
    written, out = [], tmp_path / "s.zarr"

    def noting(storage, path, parts):
        written.append(path)
        if len(written) == 5:
            raise KeyboardInterrupt
        return write_described(storage, path, parts)

    monkeypatch.setattr("wif_store.builder.shards.write_described", noting)
    with pytest.raises(KeyboardInterrupt):
        build(source, out)
    stopped = written[4]
    assert set(Journal(out).shards()) == {*written} - {stopped}
    build(source, out)
    # The shard that was being written is written again, and no other.
    assert [path for path in written if written.count(path) > 1] == [stopped] * 2
    assert contents(out) == undisturbed


def test_what_a_kill_leaves_half_written_is_not_in_the_store(source, undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "s.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "finish", stop)
        with pytest.raises(Stopped):
            build(source, out)
    staged = tmp_path / "s.zarr.partial" / "store"
    (staged / "manifest.json.abc.partial").write_text("{")
    (staged / "train" / "success" / "c" / "0.c0ffee.partial").write_bytes(b"\0")
    build(source, out)
    assert contents(out) == undisturbed


@pytest.mark.parametrize("plan_left", [True, False])
def test_a_kill_after_the_last_rename_leaves_nothing_behind(plan_left, source, tmp_path, monkeypatch):
    out = tmp_path / "s.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "discard", stop)
        with pytest.raises(Stopped):
            build(source, out)
    if not plan_left:
        (tmp_path / "s.zarr.partial" / "plan.json").unlink()
    assert build(source, out).already_built
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.zarr", "s.zarr.log.jsonl"]


def test_the_journal_of_another_build_beside_a_finished_store_is_left(source, tmp_path, monkeypatch):
    out = tmp_path / "s.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "discard", stop)
        with pytest.raises(Stopped):
            build(source, out)
    plan = tmp_path / "s.zarr.partial" / "plan.json"
    plan.write_text(plan.read_text().replace('"seed": 0', '"seed": 7'))
    assert build(source, out).already_built
    assert plan.exists()


def test_a_kill_while_the_run_is_logged_leaves_nothing_behind(source, tmp_path, monkeypatch):
    out, write = tmp_path / "s.zarr", LocalStorage.write

    def half(self, name, parts):
        if name != "log":
            return write(self, name, parts)
        (self.folder / f"{name}.c0ffee00.partial").write_bytes(b"{")
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", half)
        with pytest.raises(Stopped):
            build(source, out)
    assert build(source, out).already_built
    assert list(tmp_path.iterdir()) == [out]


def scanned_and_stopped(source, out, monkeypatch):
    """A build that was stopped when its first shard was about to be written."""
    with monkeypatch.context() as patch:
        patch.setattr(SplitWriter, "shards", stop)
        with pytest.raises(Stopped):
            build(source, out)


DAMAGE = [("npz", "values"), ("npz", "cut"), ("npz", "gone"), ("residuals", "values"), ("residuals", "cut")]


@pytest.mark.parametrize(("kind", "how"), [*DAMAGE, ("residuals", "gone")])
def test_a_damaged_journal_is_said_and_made_again(kind, how, source, undisturbed, tmp_path, monkeypatch):
    out, journalled = tmp_path / "s.zarr", fake_engine()
    with pytest.raises(KeyboardInterrupt):
        build(source, out, stops_at(journalled, 1))
    path = tmp_path / "s.zarr.partial" / "blocks" / f"train-000000.{kind}"
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        # The values of a block, not what zip leaves unread.
        at = content.find(b"prediction.npy") + 160 if kind == "npz" else len(content) // 2
        content[at] ^= 0x1C
        path.write_bytes(content)
    engine = fake_engine()
    if (kind, how) == ("residuals", "gone"):
        with pytest.raises(BuildError, match=r"is gone, and a shard made of it too: delete .*\.partial"):
            build(source, out, engine)
        return
    if (kind, how) != ("npz", "gone"):  # that block is simply not there
        with pytest.raises(BuildError, match=r"train-000000 is damaged: delete .*000\.npz and run the same"):
            build(source, out, engine)
        path.with_name("train-000000.npz").unlink()
    build(source, out, engine)
    assert contents(out) == undisturbed
    begun = [calls[0] for calls in engine.extract.calls]
    assert journalled.extract.calls[0][0] in begun


def test_a_shard_of_another_size_is_written_again(source, undisturbed, tmp_path, monkeypatch):
    """As long as the journal has what it is made of; else the build says which folder to delete."""
    out = tmp_path / "s.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "finish", stop)
        patch.setattr(Blocks, "remove_residuals", lambda blocks, name: None)
        with pytest.raises(Stopped):
            build(source, out)
    path = tmp_path / "s.zarr.partial" / "store" / "train" / "sequence" / "c" / "0" / "0" / "0"
    path.write_bytes(path.read_bytes()[:-1])
    build(source, out)
    assert contents(out) == undisturbed


def test_a_shard_that_is_gone_with_what_it_was_made_of_is_said(source, tmp_path, monkeypatch):
    out = tmp_path / "s.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "finish", stop)
        with pytest.raises(Stopped):
            build(source, out)
    (tmp_path / "s.zarr.partial" / "store" / "train" / "sequence" / "c" / "0" / "0" / "0").unlink()
    with pytest.raises(BuildError, match=r"is gone, and a shard made of it too: delete .*\.partial and"):
        build(source, out)


KILLED = """
import sys, time
import pytest
from tests.support.builds import settings, small_shards, TASK
from tests.support.fake_engine import FakeExtract, fake_engine
from wif_store.builder.pipeline import build_store
from wif_store.tasks.rows import load_source

small_shards(pytest.MonkeyPatch())
call = FakeExtract.__call__
FakeExtract.__call__ = lambda self, requests: (time.sleep(0.01), call(self, requests))[1]
print("ready", flush=True)
rows, out, pairs = sys.argv[1:]
build_store(settings(per_class=int(pairs)), load_source(TASK, rows), fake_engine(), out)
"""


def test_killed_at_random_instants_and_resumed(source, undisturbed, tmp_path):
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(ROWS))
    out = tmp_path / "s.zarr"
    command = [sys.executable, "-c", KILLED, str(rows), str(out), str(PAIRS)]
    given = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    rng, killed = random.Random(7), 0
    for _ in range(3):
        with subprocess.Popen(command, **given, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(rng.uniform(0.05, 0.5))
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        if not out.exists():
            with pytest.raises(StoreError):
                open_store(out)
    assert killed
    build(source, out)
    assert contents(out) == undisturbed
    assert nothing_partial(tmp_path) == []


def test_the_records_of_a_stopped_build_are_asked_for_once(source, tmp_path):
    """What a model has run is never run again, however often the build is stopped."""
    engine, out = fake_engine(), tmp_path / "s.zarr"
    for number in (1, 2, 3, 9):
        with pytest.raises(KeyboardInterrupt):
            build(source, out, stops_at(engine, number))
    build(source, out, engine)
    ids = [id for calls in engine.extract.calls for id in calls]
    assert len(ids) == len(set(ids))
    assert isinstance(engine.extract, FakeExtract)
