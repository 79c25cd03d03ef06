"""The same contract for a folder and for a URL: what is written is read, complete or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import fsspec
import numpy as np
import pytest

from wif_store.errors import DamageError, StoreError
from wif_store.storage import LocalStorage, RemoteStorage, describe, storage_of, write_described, write_file


@pytest.fixture
def bucket():
    """A folder of an object store, in memory, that goes when the test ends."""
    url = f"memory://bucket-{os.urandom(4).hex()}"
    yield url
    fs = fsspec.filesystem("memory")
    for path in [p for p in fs.store if p.startswith(url.removeprefix("memory:/"))]:
        del fs.store[path]


@pytest.fixture(params=["folder", "url"])
def storage(request, tmp_path, bucket):
    return storage_of(tmp_path / "here" if request.param == "folder" else f"{bucket}/here")


def test_what_is_written_is_read(storage):
    parts = [b"one", memoryview(b"two"), np.arange(3, dtype="<u2").data]
    entry = write_described(storage, "a/b.bin", iter(parts))
    content = b"onetwo\0\0\1\0\2\0"
    assert entry == {"size": 12, "sha256": hashlib.sha256(content).hexdigest()}
    assert storage.read("a/b.bin") == content
    assert storage.read("a/b.bin", 3, 6) == b"two"
    assert storage.read("a/b.bin", 10) == content[10:]
    assert storage.read("a/b.bin", 10, 99) == content[10:]
    assert storage.size("a/b.bin") == 12
    assert storage.sizes() == {"a/b.bin": 12}
    assert storage.at("a").sizes() == storage.parent.at("here/a").sizes() == {"b.bin": 12}
    assert storage.exists("a/b.bin")
    assert storage.exists("a")
    assert not storage.exists("b.bin")
    storage.write("a/b.bin", [b"new"])
    assert storage.read("a/b.bin") == b"new"
    storage.remove("a/b.bin")
    assert storage.sizes() == {}
    for what in (storage.read, storage.size):
        with pytest.raises(FileNotFoundError):
            what("a/b.bin")


def test_what_fails_half_way_is_not_there(storage):
    def parts():
        yield b"one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.write("a.bin", parts())
    assert storage.sizes() == {}
    storage.write("a.bin", [b"before"])
    storage.write("b.bin", [])
    with pytest.raises(KeyboardInterrupt):
        storage.write("a.bin", parts())
    with pytest.raises(KeyboardInterrupt):
        storage.at("c").write("a.bin", parts())
    left = {name: size for name, size in storage.sizes().items() if name != "a.bin"}
    assert left == {"b.bin": 0}
    if storage.renames:
        assert storage.read("a.bin") == b"before"


def test_many_threads_read_through_one_storage(storage):
    content = os.urandom(2**20)
    storage.write("a.bin", [content])
    starts = range(0, 2**20, 2**12)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda start: storage.read("a.bin", start, start + 2**12), starts))
    assert b"".join(found) == content


def test_what_has_no_revisions_is_pinned_as_it_is(storage):
    assert storage.pinned() is storage


def test_whoever_holds_a_storage_reads_and_writes_it(storage):
    with storage.hold():
        storage.write("a.bin", [b"one"])
    with storage.hold():
        assert storage.read("a.bin") == b"one"


def test_a_buffered_object_that_fails_is_never_sent(bucket, monkeypatch):
    """As object stores write: what was buffered is sent when the file is closed, or collected."""
    sent = []

    class Buffered(fsspec.spec.AbstractBufferedFile):
        def _upload_chunk(self, final=False):
            sent.append((len(self.buffer.getvalue()), final))

    storage = RemoteStorage(bucket)

    def parts(last):
        yield b"x" * 2**20
        yield b"y" * 2**20
        if last is None:
            raise KeyboardInterrupt
        yield last

    monkeypatch.setattr(storage, "part_bytes", 2**20)
    monkeypatch.setattr(storage.fs, "open", partial(Buffered, storage.fs))
    with pytest.raises(KeyboardInterrupt):
        storage.write("a", parts(None))
    assert sent == [(2**20, False)] * 2
    sent.clear()
    storage.write("a", parts(b"z"))
    assert sent == [(2**20, False), (2**20, False), (1, True)]


def test_what_a_client_raises_names_the_object_in_one_line(bucket, monkeypatch):
    class NoCredentials(Exception):
        pass

    def refuses(*args, **kwargs):
        msg = "Unable to\nlocate credentials"
        raise NoCredentials(msg)

    storage = storage_of(bucket)
    monkeypatch.setattr(type(storage.fs), "open", refuses)
    with pytest.raises(OSError, match=r"Unable to locate credentials: 'memory://.*/plan\.json'"):
        storage.write("plan.json", [b"{}"])


def test_a_url_that_nothing_understands_is_one_line():
    with pytest.raises(StoreError, match=r"nosuch://bucket cannot be reached .*nosuch") as error:
        storage_of("nosuch://bucket")
    assert "\n" not in str(error.value)


def test_a_link_is_refused(tmp_path):
    write_file(tmp_path / "s" / "a.bin", b"one")
    (tmp_path / "s" / "b.bin").symlink_to(tmp_path / "s" / "a.bin")
    with pytest.raises(DamageError, match=r"b\.bin is a link"):
        LocalStorage(tmp_path / "s").sizes()


def test_a_file_is_described_as_it_was_when_written(tmp_path):
    storage = LocalStorage(tmp_path)
    assert write_described(storage, "a.bin", [b"one", b"two"]) == describe(tmp_path / "a.bin")


def test_a_folder_is_held_by_one(tmp_path):
    storage = LocalStorage(tmp_path / "s.partial")
    with storage.hold(), pytest.raises(BlockingIOError), storage.hold():
        pass
    with storage.hold():
        pass


def test_another_process_is_kept_out_until_the_holder_ends(tmp_path):
    code = (
        "import sys, pathlib; from wif_store.storage import LocalStorage\n"
        "with LocalStorage(pathlib.Path(sys.argv[1])).hold():\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    call = [sys.executable, "-c", code, str(tmp_path / "s.partial")]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        storage = LocalStorage(tmp_path / "s.partial")
        with pytest.raises(BlockingIOError), storage.hold():
            pass
        other.kill()
    with storage.hold():
        pass


def test_the_lock_stands_outside_of_the_folder_and_goes(tmp_path):
    """A folder on NFS cannot be removed while a file in it is open."""
    storage = LocalStorage(tmp_path / "s.partial")
    with storage.hold():
        storage.write("a.bin", [b"one"])
        assert [path.name for path in storage.folder.iterdir()] == ["a.bin"]
        storage.remove()
        assert not storage.exists()
    assert list(tmp_path.iterdir()) == []


WINDOWS = """
import sys, os
sys.modules["fcntl"] = None
for name in ("pread", "O_CLOEXEC", "O_DIRECTORY"):
    vars(os).pop(name, None)
from pathlib import Path
from wif_store.storage import storage_of
opens = os.open
def refuses(path, *args, **options):
    if Path(path).is_dir():
        raise PermissionError(13, "Permission denied", str(path))
    return opens(path, *args, **options)
storage = storage_of(sys.argv[1])
os.open = refuses
from wif_store.storage import local
class Nt:
    name = "nt"
    def __getattr__(self, name): return getattr(os, name)
local.os = Nt()
storage.write("a/b.bin", [b"one"])
storage.write("a/b.bin", [b"two"])
assert storage.read("a/b.bin", 1, 3) == b"wo"
assert storage.sizes() == {"a/b.bin": 3}
print("read")
"""


def test_a_system_without_what_posix_adds_reads_and_writes(tmp_path):
    call = [sys.executable, "-c", WINDOWS, str(tmp_path / "s")]
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout == "read\n"
