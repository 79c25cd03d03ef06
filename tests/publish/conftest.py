"""Stores to publish, built once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.stores import make_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small store of a task, made on first use; tests must not change it."""
    root = tmp_path_factory.mktemp("stores")

    def get(task: str) -> Path:
        out = root / f"{task}.zarr"
        return out if out.exists() else make_store(out, task)

    return get


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that were made shorter: push's own and the client's."""
    waits: list[float] = []
    monkeypatch.setattr("wif_store.publish.remote.time.sleep", waits.append)
    return waits
