"""The short form of the fault campaign, and a test for each thing that it broke."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support import tiny
from tests.support.fake_engine import fake_engine
from tests.builder.test_pipeline import TASK, contents, settings
from wif_store.builder.pipeline import build
from wif_store.errors import BuildError, DamageError, ScoreError, SourceError
from wif_store.builder.journal import Journal
from wif_store.storage import LocalStorage
from wif_store.scorer.predictions import read_predictions
from wif_store.tasks.rows import load_source
from wif_store.store.verify import verify_store
from wif_store.builder.writer import StoreWriter

ROOT = Path(__file__).parents[1]


def test_the_short_campaign_loses_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", "--short", "--seed", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 17
    assert all(int(row[2]) == int(row[3]) > 0 == int(row[4]) for row in rows), done.stdout


ONE_KILL = """
import random, sys, warnings
from pathlib import Path
from benchmarks.faults import builds, kills
warnings.filterwarnings("ignore")
folder = Path(sys.argv[1]).resolve()
job = builds.real_job(folder, 16)
assert job.prepare.args == (2,)
for row in kills.random_instants(job, folder, (1, 1), random.Random(0)):
    assert (row.injected, row.lost) == (1, 0), row.failures
"""


@pytest.mark.slow
def test_builds_of_the_campaign_have_threads_of_their_own(tmp_path):
    """A child of a process in which OpenMP has run waits for ever in its first forward pass."""
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", ONE_KILL, tmp_path], cwd=ROOT, env=env, check=True, timeout=400)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    return load_source(TASK, str(tiny.write_rows(path, tiny.rows(40))))


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "s.zarr"
    build(settings(), source, fake_engine(), out)
    return out


class Stopped(BaseException):
    """A kill, as far as files are concerned."""


def stop(*args, **kwargs):
    raise Stopped


def test_what_a_kill_leaves_half_written_is_not_in_the_store(source, whole, tmp_path, monkeypatch):
    out = tmp_path / "s.zarr"
    monkeypatch.setattr(Journal, "finish", stop)
    with pytest.raises(Stopped):
        build(settings(), source, fake_engine(), out)
    monkeypatch.undo()
    staged = tmp_path / "s.zarr.partial" / "store"
    (staged / "manifest.json.abc.partial").write_text("{")
    (staged / "gold" / "c" / "0.c0ffee.partial").write_bytes(b"\0")
    build(settings(), source, fake_engine(), out)
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("plan_left", [True, False])
def test_a_kill_after_the_last_rename_leaves_nothing_behind(source, tmp_path, monkeypatch, plan_left):
    out = tmp_path / "s.zarr"
    monkeypatch.setattr(Journal, "discard", stop)
    with pytest.raises(Stopped):
        build(settings(), source, fake_engine(), out)
    if not plan_left:
        (tmp_path / "s.zarr.partial" / "plan.json").unlink()
    assert build(settings(), source, fake_engine(), out).already_built
    assert sorted(tmp_path.iterdir()) == [out, tmp_path / "s.zarr.log.jsonl"]


def test_a_kill_while_the_run_is_logged_leaves_nothing_behind(source, tmp_path, monkeypatch):
    out = tmp_path / "s.zarr"
    written = LocalStorage.write

    def half(self, name, parts):
        if name != "log":
            return written(self, name, parts)
        (self.folder / f"{name}.c0ffee00.partial").write_bytes(b"{")
        raise Stopped

    monkeypatch.setattr(LocalStorage, "write", half)
    with pytest.raises(Stopped):
        build(settings(), source, fake_engine(), out)
    monkeypatch.undo()
    assert build(settings(), source, fake_engine(), out).already_built
    assert list(tmp_path.iterdir()) == [out]


def test_a_build_that_waited_does_not_begin_anew(source, tmp_path, monkeypatch):
    """Another process finishes between the look at the folder and the lock."""
    out = tmp_path / "s.zarr"
    opened = Journal.open

    def finished_first(self, plan):
        monkeypatch.setattr(Journal, "open", opened)
        build(settings(), source, fake_engine(), out)
        opened(self, plan)

    monkeypatch.setattr(Journal, "open", finished_first)
    engine = fake_engine()
    with pytest.raises(BuildError, match="another build has just finished"):
        build(settings(), source, engine, out)
    assert engine.extract.calls == []
    verify_store(out)


def test_a_note_that_is_half_written_is_no_shard(tmp_path):
    journal = Journal(tmp_path / "s.zarr")
    journal.store.write("gold/c/0", [b"12"])
    journal.note_shard("gold/c/0", {"size": 2, "sha256": "0"})
    (tmp_path / "s.zarr.partial" / "shards" / "gold.c.1.json.c0ffee00.partial").write_text('{"fi')
    assert journal.shards() == {"gold/c/0": {"size": 2, "sha256": "0"}}


@pytest.mark.parametrize("name", ["000001.npz", "000001.residuals"])
@pytest.mark.parametrize("where", [0, 20, 21, -40, "cut", "gone"])
def test_a_damaged_journal_is_said_and_made_again(name, where, source, whole, tmp_path, monkeypatch):
    out = tmp_path / "s.zarr"
    monkeypatch.setattr(StoreWriter, "shards", stop)
    with pytest.raises(Stopped):
        build(settings(), source, fake_engine(), out)
    monkeypatch.undo()
    path = tmp_path / "s.zarr.partial" / "blocks" / name
    content = bytearray(path.read_bytes())
    if where == "gone":
        path.unlink()
    elif where == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        if name == "000001.npz":
            where = content.find(b"prediction.npy") + 160 + where  # the values, not what zip leaves unread
        content[where] ^= 0x1C
        path.write_bytes(content)
    if (name, where) != ("000001.npz", "gone"):  # that block is simply not there
        with pytest.raises(BuildError, match=r"000001 is damaged: delete .*000001\.npz and run the same"):
            build(settings(), source, fake_engine(), out)
        path.with_name("000001.npz").unlink()
    engine = fake_engine()
    build(settings(), source, engine, out)
    assert len(engine.extract.calls) == 1
    assert contents(out) == contents(whole)


def test_whatever_the_file_system_refuses_is_one_line(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="File exists; mend that, or choose another --out"):
        build(settings(), source, fake_engine(), tmp_path / "file" / "s.zarr")

    def broken(requests):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "disk")

    engine = replace(fake_engine(), extract=broken)
    with pytest.raises(BuildError, match="cannot write disk: Input/output error; mend that"):
        build(settings(), source, engine, tmp_path / "s.zarr")


def test_verify_names_the_file_that_opening_a_store_would_read(source, tmp_path):
    out = tmp_path / "s.zarr"
    build(settings(), source, fake_engine(), out)
    path = out / "layer" / "c" / "0"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DamageError, match=r"layer/c/0 \(layer\) does not have its SHA-256"):
        verify_store(out)


GOOD = {"sentence": "The cup is in the _ now.", "option1": "box", "option2": "sink", "answer": "1"}
BAD_ROWS = {
    "half a surrogate pair": (json.dumps({**GOOD, "option1": "\ud800"}).encode(), "is not Unicode text"),
    "a stray byte": (json.dumps(GOOD).encode().replace(b"cup", b"c\xffp"), "is not Unicode text"),
    "a number of 5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "line 1: not JSON"),
    "a list for a split": (json.dumps({**GOOD, "paper_split": []}).encode(), "'paper_split' is list"),
    "an object for an outcome": (json.dumps({**GOOD, "gemma2_2b_correct": {}}).encode(), "is dict"),
    "a field that writes to the terminal": (b'{"\\u001b]0;x": 1}', r"found '\\x1b\]0;x'"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_rows_that_fuzzing_found(case, tmp_path):
    content, message = BAD_ROWS[case]
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        load_source(TASK, str(tmp_path / "rows.jsonl"))


def test_predictions_that_fuzzing_found(tmp_path):
    path = tmp_path / "p.jsonl"
    for content in (b"[" * 100_000, b'{"id": "a", "score": ' + b"9" * 400 + b"}"):
        path.write_bytes(content)
        with pytest.raises(ScoreError) as error:
            read_predictions(path)
        assert len(str(error.value)) < 500
    pq.write_table(pa.table({"id": ["a"], "score": [0.5]}), tmp_path / "p.parquet")
    content = bytearray((tmp_path / "p.parquet").read_bytes())
    content[-40:-8] = b"\xff" * 32
    (tmp_path / "p.parquet").write_bytes(bytes(content))
    with pytest.raises(ScoreError) as error:
        read_predictions(tmp_path / "p.parquet")
    assert "\n" not in str(error.value)
