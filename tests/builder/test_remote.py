"""Builds that go straight to an object store: the same bytes, and resumed as in a folder."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.builds import contents, objects, settings, small_shards
from tests.support.fake_engine import fake_engine
from wif_store.builder import pipeline
from wif_store.builder.journal import Journal
from wif_store.builder.pipeline import build_store
from wif_store.builder.writer import SplitWriter
from wif_store.errors import BuildError, SelectionError, StoreError
from wif_store.storage import storage_of
from wif_store.store.reader import open_store


def stop(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_shards(monkeypatch)


@pytest.fixture
def local(source, tmp_path):
    """The store that a folder would have."""
    build_store(settings(), source, fake_engine(), tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def test_a_build_straight_to_a_url_is_the_local_one(source, bucket, local):
    url = f"{bucket}/some/s.zarr"
    report = build_store(settings(), source, fake_engine(), url)
    assert report.out == url
    assert objects(url) == contents(local)
    beside = {f"s.zarr/{name}" for name in contents(local)} | {"s.zarr.log.jsonl"}
    assert set(storage_of(f"{bucket}/some").sizes()) == beside
    here, there = open_store(local), open_store(url)
    for split in ("train", "test"):
        np.testing.assert_array_equal(there.read_final_token(1, split)[0], here.read_final_token(1, split)[0])
        np.testing.assert_array_equal(there.read_sequences(1, split)[0], here.read_sequences(1, split)[0])
    engine = fake_engine()
    assert build_store(settings(), source, engine, url).already_built
    assert engine.extract.calls == []
    with pytest.raises(BuildError, match="holds a finished store with another selection"):
        build_store(settings(seed=1), source, engine, url)


def stopped_at(where, patch):
    """A build ends when it first gives out shards, after its scan, or when its manifest is written."""
    if where == "shards":
        patch.setattr(SplitWriter, "shards", stop)
    elif where == "scanned":
        patch.setattr(pipeline, "check_pairs", stop)
    else:
        patch.setattr(pipeline, "finish_store", stop)


@pytest.mark.parametrize("where", ["shards", "scanned", "finish"])
def test_a_url_is_no_store_until_its_manifest_and_is_resumed(where, source, bucket, local, monkeypatch):
    url = f"{bucket}/s.zarr"
    with monkeypatch.context() as patch:
        stopped_at(where, patch)
        with pytest.raises(KeyboardInterrupt):
            build_store(settings(), source, fake_engine(), url)
    with pytest.raises(StoreError, match=r"s\.zarr is unfinished: run the build command that began it again"):
        open_store(url)
    with pytest.raises(BuildError, match="holds an unfinished build with another selection"):
        build_store(settings(seed=1), source, fake_engine(), url)
    assert "is unfinished: winogrande with made/up" in Journal(url).describe()
    engine = fake_engine()
    if where == "finish":  # every shard is there: none is written again
        monkeypatch.setattr("wif_store.builder.shards.write_described", stop)
    build_store(settings(), source, engine, url)
    assert where == "shards" or engine.extract.calls == []
    assert objects(url) == contents(local)
    assert not storage_of(f"{bucket}/s.zarr.partial").exists()


def test_a_kill_before_the_journal_was_removed(source, bucket, monkeypatch):
    url = f"{bucket}/s.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            build_store(settings(), source, fake_engine(), url)
    assert build_store(settings(), source, fake_engine(), url).already_built
    assert not storage_of(f"{url}.partial").exists()


def test_what_else_stands_at_a_url_is_left_alone(source, bucket):
    storage_of(f"{bucket}/s.zarr").write("thesis.txt", [b"precious"])
    with pytest.raises(BuildError, match="exists and is not a finished store"):
        build_store(settings(), source, fake_engine(), f"{bucket}/s.zarr")
    assert storage_of(f"{bucket}/s.zarr").read("thesis.txt") == b"precious"


def test_a_k_that_cannot_be_reached_leaves_what_was_scanned(source, bucket):
    with pytest.raises(SelectionError):
        build_store(settings(per_class=500), source, fake_engine(), f"{bucket}/s.zarr")
    assert storage_of(f"{bucket}/s.zarr.partial").exists("blocks/train-000000.npz")


@pytest.mark.parametrize(
    ("url", "message"),
    [("nosuch://bucket/s.zarr", r"cannot be reached .*nosuch"), ("hf://datasets/a/b", "then push it")],
)
def test_a_url_that_nothing_speaks_to_is_one_line(url, message, source):
    with pytest.raises((StoreError, BuildError), match=message) as error:
        build_store(settings(), source, fake_engine(), url)
    assert "\n" not in str(error.value)


def test_what_a_client_raises_is_one_line(source, bucket, monkeypatch):
    class NoCredentials(Exception):
        pass

    def refuses(*args, **kwargs):
        msg = "Unable to\nlocate credentials"
        raise NoCredentials(msg)

    monkeypatch.setattr(type(storage_of(bucket).fs), "open", refuses)
    with pytest.raises(BuildError, match=r"cannot write memory:.*: Unable to locate credentials; mend that"):
        build_store(settings(), source, fake_engine(), f"{bucket}/s.zarr")
