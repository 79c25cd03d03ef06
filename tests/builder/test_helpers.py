"""Helpers write the bytes that this process would write, and a dead one ends the build with one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.fake_engine import fake_engine
from tests.builder.test_pipeline import TASK, contents, settings
from wif_store import crew
from wif_store.builder.pipeline import build
from wif_store.errors import BuildError
from wif_store.builder.helpers import Helpers
from wif_store.tasks.rows import load_source

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    return load_source(TASK, str(tiny.write_rows(path, tiny.rows(60))))


@pytest.fixture
def helped(monkeypatch):
    """Builds of this process have two helpers, which are listed."""
    found = []

    def two(count):
        found.append(started(2))
        return found[-1]

    monkeypatch.setattr(crew, "MANY_CORES", 1)
    monkeypatch.setattr(crew, "Helpers", two)
    return found


def children(process):
    """The processes that a process has forked so far."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return list(map(int, path.read_text().split()))


def started(count):
    """Helpers that have all started, with the processes that they are."""
    helpers = Helpers(count)
    while len(children(helpers._parent)) < count:
        assert helpers._parent.poll() is None
        time.sleep(0.01)
    helpers.pids = children(helpers._parent)
    return helpers


def alive(helpers):
    return [Path(f"/proc/{pid}").exists() for pid in (helpers._parent.pid, *helpers.pids)]


def test_helpers_write_the_same_bytes(source, helped, whole, tmp_path):
    build(settings(), source, fake_engine(), tmp_path / "s.zarr")
    assert contents(tmp_path / "s.zarr") == contents(whole)
    assert [alive(helpers) for helpers in helped] == [[False] * 3]


def test_a_build_that_fails_ends_its_helpers(source, helped, tmp_path, monkeypatch):
    monkeypatch.setattr(Helpers, "write", lambda *given: iter([1 / 0]))
    with pytest.raises(ZeroDivisionError):
        build(settings(), source, fake_engine(), tmp_path / "s.zarr")
    assert alive(helped[0]) == [False] * 3


def test_what_a_helper_finds_damaged_is_said(source, helped, tmp_path, monkeypatch):
    write = Helpers.write

    def damaged(helpers, out, jobs):
        for path in (tmp_path / "s.zarr.partial" / "blocks").glob("*.residuals"):
            path.write_bytes(bytes(path.stat().st_size))
        yield from write(helpers, out, jobs)

    monkeypatch.setattr(Helpers, "write", damaged)
    with pytest.raises(BuildError, match="is damaged: delete"):
        build(settings(), source, fake_engine(), tmp_path / "s.zarr")


def test_a_helper_that_died_is_one_line_and_nothing_is_lost(source, helped, whole, tmp_path, monkeypatch):
    write = Helpers.write

    def dying(helpers, out, jobs):
        os.kill(helpers.pids[0], signal.SIGKILL)
        while alive(helpers)[1]:
            time.sleep(0.01)
        yield from write(helpers, out, jobs)

    monkeypatch.setattr(Helpers, "write", dying)
    with pytest.raises(BuildError, match="ended before its time: run the same command again"):
        build(settings(), source, fake_engine(), tmp_path / "s.zarr")
    monkeypatch.setattr(Helpers, "write", write)
    build(settings(), source, fake_engine(), tmp_path / "s.zarr")
    assert contents(tmp_path / "s.zarr") == contents(whole)


def test_helpers_that_cannot_start_are_one_line(source, tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "MANY_CORES", 1)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(BuildError, match=r"cannot write .*no-python: No such file or directory"):
        build(settings(), source, fake_engine(), tmp_path / "s.zarr")


def test_helpers_that_are_not_needed_end_too():
    helpers = Helpers(3)
    helpers.end()
    assert helpers._parent.poll() == 0


def test_helpers_end_with_the_pipes():
    helpers = started(2)
    for pipe in helpers._pipes:
        pipe.close()  # What the system does with the pipes of a process that it ends.
    assert helpers._parent.wait(timeout=60) == 0
    assert alive(helpers) == [False] * 3


@pytest.mark.parametrize("after", [0.0, 0.01, 0.03])
def test_a_build_killed_while_helpers_write_is_finished_by_the_same_call(after, whole, tmp_path):
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(60))
    out = tmp_path / "s.zarr"
    command = [sys.executable, "-m", "tests.support.helped_build", rows, out]
    process = subprocess.Popen(command, cwd=ROOT)
    while not (tmp_path / "s.zarr.partial" / "store").exists() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(after)
    process.kill()
    process.wait()
    subprocess.run(command, cwd=ROOT, check=True)
    assert contents(out) == contents(whole)
    assert not (tmp_path / "s.zarr.partial").exists()


def test_an_interrupt_at_the_terminal_is_the_builds():
    helpers = started(1)
    assert os.getpgrp() not in {os.getpgid(pid) for pid in (helpers._parent.pid, *helpers.pids)}
    helpers.end()


def test_a_helper_that_failed_goes_on(tmp_path):
    helpers = started(1)
    for _ in range(2):
        with pytest.raises(BuildError, match="nowhere"):
            list(helpers.write(str(tmp_path / "nowhere"), [job_of(tmp_path)]))
    helpers.end()
    assert alive(helpers) == [False, False]


def job_of(folder):
    """A shard of a build that is not there."""
    from wif_store.builder.blocks import Piece
    from wif_store.format.layout import sequence_layout
    from wif_store.builder.shards import ShardJob

    return ShardJob("sequence/c/0/0/0", sequence_layout(16, 12), "<u2", (Piece(0, 0, 12, 0),), 12)
