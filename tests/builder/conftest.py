"""Rows to build from, an object store in memory, and a disk that is not waited for."""

from __future__ import annotations

import os

import fsspec
import pytest

from tests.support.builds import source_of


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Half of a small build would be spent waiting for the disk; nobody pulls the plug."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Sixty rows, of which each split gets a few pairs."""
    return source_of(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def bucket():
    """A folder of an object store, in memory, that goes when the test ends."""
    url = f"memory://bucket-{os.urandom(4).hex()}"
    yield url
    fs = fsspec.filesystem("memory")
    for path in [p for p in fs.store if p.startswith(url.removeprefix("memory:/"))]:
        del fs.store[path]


@pytest.fixture
def one_thread():
    """Tiny models are quicker without threads that wait for one another."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
