"""A disk that is not waited for, and what is read of it."""

from __future__ import annotations

import os

import pytest

from wif_store.storage import LocalStorage


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Half of a small build would be spent waiting for the disk; nobody pulls the plug."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def reads(monkeypatch):
    """Every range that is read of a local file from now on: its name, and the bytes."""
    noted, read = [], LocalStorage.read

    def noting(self, name, start=0, stop=None):
        content = read(self, name, start, stop)
        noted.append((name, content))
        return content

    monkeypatch.setattr(LocalStorage, "read", noting)
    return noted
