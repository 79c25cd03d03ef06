"""Stores to publish, built once; a client of the loopback Hub; waits that are not waited."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from huggingface_hub import HfApi

from tests.hub.loopback import REPO
from tests.support.stores import make_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.hub import Hub


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small store of a task, made on first use; tests must not change it."""
    root = tmp_path_factory.mktemp("stores")

    def get(task: str) -> Path:
        out = root / f"{task}.zarr"
        return out if out.exists() else make_store(out, task)

    return get


@pytest.fixture
def api(hub: Hub) -> HfApi:
    """The owner's client, with the repo made."""
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo(REPO, repo_type="dataset")
    return api


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that push and the client would have made, not made."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    return waits
