"""What stands at ``--out`` already, finished or not, and what the file system refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.builds import TASK, contents, nothing_partial, settings, small_shards, source_of
from tests.support.fake_engine import fake_engine
from wif_store.builder.journal import Journal
from wif_store.builder.pipeline import build_store
from wif_store.builder.plan import is_finished
from wif_store.errors import BuildError, SelectionError, StoreError
from wif_store.storage import LocalStorage
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store


def test_the_same_build_again_does_nothing(source, tmp_path):
    build_store(settings(), source, fake_engine(), tmp_path / "s.zarr")
    before = contents(tmp_path / "s.zarr")
    engine = fake_engine()
    assert build_store(settings(), source, engine, tmp_path / "s.zarr").already_built
    assert engine.extract.calls == []
    assert contents(tmp_path / "s.zarr") == before
    assert nothing_partial(tmp_path) == []


def test_a_lock_that_a_kill_left_beside_a_finished_store_is_removed(source, tmp_path):
    build_store(settings(), source, fake_engine(), tmp_path / "s.zarr")
    (tmp_path / "s.zarr.partial.lock").touch()
    assert build_store(settings(), source, fake_engine(), tmp_path / "s.zarr").already_built
    assert nothing_partial(tmp_path) == []


def test_two_builds_have_the_same_bytes(source, tmp_path):
    for name in ("s.zarr", "t.zarr"):
        build_store(settings(), source, fake_engine(), tmp_path / name)
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "t.zarr")


def finished(out, source, **changes):
    model = {name: fake_engine().model[name] for name in ("id", "kind", "revision", "dtype")}
    given = {"model": model, "batching": {"examples": 1}, "layers": "all", "sequence_layers": "0,1"}
    chosen = {name: changes.pop(name) for name in list(changes) if name not in given}
    return is_finished(LocalStorage(out), settings(**chosen), source, **{**given, **changes})


def test_a_finished_build_is_known_without_its_model(source, tmp_path):
    out = tmp_path / "s.zarr"
    assert not finished(out, source)
    build_store(settings(), source, fake_engine(), out)
    assert finished(out, source)
    assert finished(out, source, layers="0-2", sequence_layers="0-1", batching={})
    for other in (
        {"seed": 1},
        {"per_class": 4},
        {"splits": "published"},
        {"skip_too_long": True},
        {"protocol": TASK.protocol("mcq")},
        {"layers": "0"},
        {"layers": "7"},
        {"sequence_layers": "none"},
        {"batching": {"examples": 2}},
        {"model": {"id": "made/up", "revision": "1"}},
    ):
        assert not finished(out, source, **other), other
    assert not finished(out, source_of(tmp_path, 61))
    (out / "train" / "success" / "c" / "0").unlink()
    assert not finished(out, source)


def test_another_build_does_not_overwrite(source, tmp_path):
    build_store(settings(), source, fake_engine(), tmp_path / "s.zarr")
    before = contents(tmp_path / "s.zarr")
    with pytest.raises(
        BuildError, match=r"finished store with another selection\.seed \(found 0, expected 1\)"
    ):
        build_store(settings(seed=1), source, fake_engine(), tmp_path / "s.zarr")
    assert contents(tmp_path / "s.zarr") == before


def test_an_unfinished_build_with_other_settings_is_left_alone(source, tmp_path):
    with pytest.raises(SelectionError):
        build_store(settings(per_class=500), source, fake_engine(), tmp_path / "s.zarr")
    before = contents(tmp_path / "s.zarr.partial")
    with pytest.raises(
        BuildError, match=r"unfinished build with another selection\.per_class \(found 500, expected 5\)"
    ):
        build_store(settings(per_class=5), source, fake_engine(), tmp_path / "s.zarr")
    assert contents(tmp_path / "s.zarr.partial") == before


def test_an_unfinished_store_says_how_far_it_is_and_how_to_go_on(source, tmp_path):
    out = tmp_path / "s.zarr"
    engine = fake_engine()

    def fails_in_the_third(requests):
        if len(engine.extract.calls) == 2:
            raise KeyboardInterrupt
        return engine.extract(requests)

    journal = Journal(out)
    assert not journal.begun()
    assert journal.recorded_threads() is None
    stopped = replace(engine, extract=fails_in_the_third, model={**engine.model, "threads": 7})
    with pytest.raises(KeyboardInterrupt):
        build_store(settings(), source, stopped, out, command="wif-store build --task winogrande")
    assert journal.begun()
    assert journal.recorded_threads() == 7
    scored = sum(map(len, engine.extract.calls))
    assert journal.describe() == (
        f"{out} is unfinished: winogrande with made/up, {scored} of 60 rows scored, "
        f"{len(journal.shards())} shards written; to go on: wif-store build --task winogrande"
    )
    with pytest.raises(StoreError, match="is unfinished: run the build command that began it again"):
        open_store(out)


@pytest.mark.parametrize("precious", ["thesis.txt", "manifest.json"])
def test_a_folder_that_holds_something_else(precious, source, tmp_path):
    (tmp_path / "s.zarr").mkdir()
    (tmp_path / "s.zarr" / precious).write_text("precious")
    with pytest.raises(
        BuildError, match=r"exists and is not a finished store .*choose another --out, or del"
    ):
        build_store(settings(), source, fake_engine(), tmp_path / "s.zarr")
    assert (tmp_path / "s.zarr" / precious).read_text() == "precious"


def test_two_builds_on_one_folder(source, tmp_path):
    engine = fake_engine()

    def second(requests):
        with pytest.raises(BuildError, match=r"another build is writing .*s\.zarr\.partial: wait for it"):
            build_store(settings(), source, fake_engine(), tmp_path / "s.zarr")
        return engine.extract(requests)

    build_store(settings(), source, replace(engine, extract=second), tmp_path / "s.zarr")
    assert verify_store(tmp_path / "s.zarr").examples


def test_a_build_that_waited_does_not_begin_anew(source, tmp_path, monkeypatch):
    """Another process finishes between the look at the folder and the lock."""
    out = tmp_path / "s.zarr"
    opened = Journal.open

    def finished_first(self, plan, command=""):
        monkeypatch.setattr(Journal, "open", opened)
        build_store(settings(), source, fake_engine(), out)
        opened(self, plan, command)

    monkeypatch.setattr(Journal, "open", finished_first)
    engine = fake_engine()
    with pytest.raises(BuildError, match=r"another build has just finished .*run the same command again"):
        build_store(settings(), source, engine, out)
    assert engine.extract.calls == []
    verify_store(out)


def test_a_full_disk_is_said_and_resumed(source, tmp_path, monkeypatch):
    """The journal's own writes meet a full file system: /dev/full is one."""
    small_shards(monkeypatch)
    out = tmp_path / "s.zarr"
    build_store(settings(), source, fake_engine(), tmp_path / "other.zarr")
    write = LocalStorage.write

    def full(self, name, parts):
        if "validation-000001" in name:
            with Path("/dev/full").open("wb", buffering=0) as device:
                device.write(b"x")
        return write(self, name, parts)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", full)
        with pytest.raises(
            BuildError, match=r"No space left on device; free some space and run the same command"
        ):
            build_store(settings(), source, fake_engine(), out)
    assert build_store(settings(), source, fake_engine(), out).resumed_blocks > 2
    assert contents(out) == contents(tmp_path / "other.zarr")


def test_whatever_the_file_system_refuses_is_one_line(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="File exists; mend that, or choose another --out"):
        build_store(settings(), source, fake_engine(), tmp_path / "file" / "s.zarr")

    def broken(requests):
        raise OSError(5, "Input/output error", "disk")

    engine = replace(fake_engine(), extract=broken)
    with pytest.raises(BuildError, match="cannot write disk: Input/output error; mend that"):
        build_store(settings(), source, engine, tmp_path / "s.zarr")

    def forbidden(requests):
        raise PermissionError(13, "Permission denied", "disk")

    engine = replace(fake_engine(), extract=forbidden)
    with pytest.raises(BuildError, match="Permission denied; make it writable, or choose another --out"):
        build_store(settings(), source, engine, tmp_path / "s.zarr")
