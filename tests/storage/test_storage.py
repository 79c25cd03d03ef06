"""Places: the same contract for a folder and for a URL, and builds that go straight to one."""

from __future__ import annotations

import hashlib
import os
from functools import partial

import fsspec
import httpx2
import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError

from tests.support import tiny
from tests.support.fake_engine import fake_engine
from tests.builder.test_pipeline import TASK, contents, settings
from tests.test_crew import FarCrew
from wif_store import places
from wif_store.builder.pipeline import build
from wif_store.errors import BuildError, DamageError, SelectionError, StoreError
from wif_store.storage import RemoteStorage, storage_of, write_described
from wif_store.tasks.rows import load_source
from wif_store.store.reader import open_store
from wif_store.builder.writer import StoreWriter


@pytest.fixture
def bucket():
    """A folder of an object store, in memory, that goes when the test ends."""
    url = f"memory://bucket-{os.urandom(4).hex()}"
    yield url
    fs = fsspec.filesystem("memory")
    for path in [p for p in fs.store if p.startswith(url.removeprefix("memory:/"))]:
        del fs.store[path]


@pytest.fixture(params=["folder", "url"])
def place(request, tmp_path, bucket):
    return storage_of(tmp_path / "here" if request.param == "folder" else f"{bucket}/here")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    return load_source(TASK, str(tiny.write_rows(path, tiny.rows(60))))


def objects(url):
    place = storage_of(url)
    return {name: hashlib.sha256(place.read(name)).hexdigest() for name in place.sizes()}


def test_what_is_written_is_read(place):
    parts = [b"one", memoryview(b"two"), np.arange(3, dtype="<u2").data]
    entry = write_described(place, "a/b.bin", iter(parts))
    content = b"onetwo\0\0\1\0\2\0"
    assert entry == {"size": 12, "sha256": hashlib.sha256(content).hexdigest()}
    assert place.read("a/b.bin") == content
    assert place.read("a/b.bin", 3, 6) == b"two"
    assert place.read("a/b.bin", 10, 99) == content[10:]
    assert place.size("a/b.bin") == 12
    assert place.sizes() == {"a/b.bin": 12}
    assert place.at("a").sizes() == place.parent.at("here/a").sizes() == {"b.bin": 12}
    assert place.exists("a/b.bin")
    assert place.exists("a")
    assert not place.exists("b.bin")
    place.write("a/b.bin", [b"new"])
    assert place.read("a/b.bin") == b"new"
    place.remove("a/b.bin")
    assert place.sizes() == {}
    for what in (place.read, place.size):
        with pytest.raises(FileNotFoundError):
            what("a/b.bin")


def test_what_fails_half_way_is_not_there(place):
    def parts():
        yield b"one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.write("a.bin", parts())
    assert place.sizes() == {}
    place.write("a.bin", [b"before"])
    place.write("b.bin", [])
    with pytest.raises(KeyboardInterrupt):
        place.at("c").write("a.bin", parts())
    assert place.sizes() == {"a.bin": 6, "b.bin": 0}


def test_a_buffered_object_that_fails_is_never_sent(bucket, monkeypatch):
    """As object stores write: what was buffered is sent when the file is closed, or collected."""
    sent = []

    class Buffered(fsspec.spec.AbstractBufferedFile):
        def _upload_chunk(self, final=False):
            sent.append((len(self.buffer.getvalue()), final))

    place = RemoteStorage(bucket)

    def parts(last):
        yield b"x" * 2**20
        yield b"y" * 2**20
        if last is None:
            raise KeyboardInterrupt
        yield last

    monkeypatch.setattr(place, "part_bytes", 2**20)
    monkeypatch.setattr(place.fs, "open", partial(Buffered, place.fs))
    with pytest.raises(KeyboardInterrupt):
        place.write("a", parts(None))
    assert sent == [(2**20, False)] * 2
    sent.clear()
    place.write("a", parts(b"z"))
    assert sent == [(2**20, False), (2**20, False), (1, True)]


def test_a_build_straight_to_a_url_is_the_local_one(source, bucket, tmp_path):
    url, local = f"{bucket}/some/s.zarr", tmp_path / "s.zarr"
    build(settings(), source, fake_engine(), local)
    report = build(settings(), source, fake_engine(), url)
    assert report.out == url
    assert objects(url) == contents(local)
    assert set(storage_of(f"{bucket}/some").sizes()) == {f"s.zarr/{n}" for n in contents(local)} | {
        "s.zarr.log.jsonl"
    }
    with_memory, on_disk = open_store(url), open_store(local)
    np.testing.assert_array_equal(with_memory.read_final_token(1)[0], on_disk.read_final_token(1)[0])
    engine = fake_engine()
    assert build(settings(), source, engine, url).already_built
    assert engine.extract.calls == []
    with pytest.raises(BuildError, match="holds a finished store with another selection"):
        build(settings(seed=1), source, engine, url)


def test_workers_elsewhere_on_a_url(source, bucket, tmp_path):
    url, local = f"{bucket}/s.zarr", tmp_path / "s.zarr"
    build(settings(), source, fake_engine(), local)
    engine = fake_engine()
    build(settings(), source, engine, url, crew=FarCrew(engine.extract, url, 3))
    assert objects(url) == contents(local)


@pytest.mark.parametrize("stopped", ["shards", "finish"])
def test_a_build_on_a_url_is_no_store_until_its_manifest_and_is_resumed(
    stopped, source, bucket, tmp_path, monkeypatch
):
    url, local = f"{bucket}/s.zarr", tmp_path / "s.zarr"
    build(settings(), source, fake_engine(), local)

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, stopped, stop)
        with pytest.raises(KeyboardInterrupt):
            build(settings(), source, fake_engine(), url)
    with pytest.raises(StoreError, match=r"s\.zarr is unfinished: run the build command"):
        open_store(url)
    with pytest.raises(BuildError, match="holds an unfinished build with another selection"):
        build(settings(seed=1), source, fake_engine(), url)
    engine = fake_engine()
    if stopped == "finish":  # every shard is there: none is written again
        monkeypatch.setattr("wif_store.builder.shards.write_described", stop)
    build(settings(), source, engine, url)
    assert engine.extract.calls == []
    assert objects(url) == contents(local)
    assert not storage_of(f"{bucket}/s.zarr.partial").exists()


def test_a_kill_before_the_journal_was_removed(source, bucket, monkeypatch):
    url = f"{bucket}/s.zarr"

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("wif_store.builder.journal.Journal.finish", stop)
        with pytest.raises(KeyboardInterrupt):
            build(settings(), source, fake_engine(), url)
    assert build(settings(), source, fake_engine(), url).already_built
    assert not storage_of(f"{url}.partial").exists()


def test_what_else_stands_at_a_url_is_left_alone(source, bucket):
    storage_of(f"{bucket}/s.zarr").write("thesis.txt", [b"precious"])
    with pytest.raises(BuildError, match="exists and is not a whole store"):
        build(settings(), source, fake_engine(), f"{bucket}/s.zarr")
    assert storage_of(f"{bucket}/s.zarr").read("thesis.txt") == b"precious"


def test_a_k_that_cannot_be_reached_leaves_what_was_scanned(source, bucket):
    with pytest.raises(SelectionError):
        build(settings(per_class=500), source, fake_engine(), f"{bucket}/s.zarr")
    assert storage_of(f"{bucket}/s.zarr.partial").exists("blocks/000000.npz")


@pytest.mark.parametrize(
    ("url", "message"),
    [("nosuch://bucket/s.zarr", "cannot be reached .*nosuch"), ("hf://datasets/a/b", "then push it")],
)
def test_a_url_that_nothing_speaks_to_is_one_line(url, message, source):
    with pytest.raises((StoreError, BuildError), match=message) as error:
        build(settings(), source, fake_engine(), url)
    assert "\n" not in str(error.value)


def test_what_a_client_raises_is_one_line(source, bucket, monkeypatch):
    class NoCredentials(Exception):
        pass

    def refuses(*args, **kwargs):
        msg = "Unable to\nlocate credentials"
        raise NoCredentials(msg)

    place = storage_of(bucket)
    monkeypatch.setattr(type(place.fs), "open", refuses)
    with pytest.raises(
        BuildError, match=r"cannot write memory://.*plan\.json: Unable to locate credentials; mend that"
    ):
        build(settings(), source, fake_engine(), f"{bucket}/s.zarr")


def test_a_name_is_kept_by_whoever_has_it(tmp_path):
    place = places.LocalStorage(tmp_path)
    with place.hold(), pytest.raises(BlockingIOError), place.hold():
        pass
    with place.hold():
        pass


@pytest.fixture
def failing_hub(monkeypatch):
    """A dataset on a Hub that answers 503 as often as it is told to; the waits of who asks it."""
    place, waits, answers = storage_of("hf://datasets/me/acts/s.zarr"), [], []

    def info(path, **options):
        if answers:
            request = httpx2.Request("GET", "http://127.0.0.1:9/api/datasets/me/acts")
            response = httpx2.Response(503, request=request, headers=answers.pop())
            msg = "Server error\nfor url"
            raise HfHubHTTPError(msg, response=response)
        return {"size": 7}

    monkeypatch.setattr(place.fs, "info", info)
    monkeypatch.setattr("wif_store.storage.hub_client.time.sleep", waits.append)
    return place, waits, answers


def test_a_hub_that_fails_for_a_while_is_waited_for(failing_hub):
    place, waits, answers = failing_hub
    answers += [{}, {"Retry-After": "9"}]
    assert place.size("manifest.json") == 7
    assert waits == [9.0, 2.0]


def test_a_hub_that_fails_for_good_is_one_line(failing_hub):
    place, waits, answers = failing_hub
    answers += [{}] * 99
    with pytest.raises(StoreError, match="dataset me/acts: the Hub answered 503: run the same") as error:
        place.size("manifest.json")
    assert "\n" not in str(error.value)
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_a_hub_that_fails_in_mid_read_is_no_damage(source, tmp_path, monkeypatch):
    build(settings(), source, fake_engine(), tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")

    def reset(*args):
        msg = "Server disconnected"
        raise httpx2.ReadError(msg)

    monkeypatch.setattr(store, "name", "hf://datasets/me/acts/s.zarr")
    monkeypatch.setattr(store, "_group", {"gold": type("Array", (), {"__getitem__": reset})()})
    with pytest.raises(StoreError, match="dataset me/acts cannot be loaded: Server disconnected") as error:
        store.array("gold")
    assert not isinstance(error.value, DamageError)
