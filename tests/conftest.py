"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.hub_fixtures import hub as hub
from tests.support import tiny

# A test that reaches for the real Hub has a bug: nothing listens here, so it is told at once.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

FIRST = (
    "workers_ray",
    "examples",
    "site",
    "end_to_end",
    "harness",
    "benchmarks",
    "docs",
    "campaign",
    "dataset",
)
"""Files of few and long tests: were they last, one process would run them while the others wait."""

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests are long."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in FIRST)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory):
    """Folder of a tiny model per architecture, made on first use."""
    root = tmp_path_factory.mktemp("models")

    def get(architecture: str) -> Path:
        folder = root / architecture
        return folder if folder.exists() else tiny.save_model(architecture, folder)

    return get


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WinoGrande-shaped JSONL source."""
    return tiny.write_rows(tmp_path_factory.mktemp("source") / "rows.jsonl", tiny.rows())


@pytest.fixture(scope="session")
def finished_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of made-up residuals; tests must not change it."""
    from tests.support.builds import settings, source_of
    from tests.support.fake_engine import fake_engine
    from wif_store.builder.pipeline import build_store

    folder = tmp_path_factory.mktemp("finished")
    build_store(settings(), source_of(folder), fake_engine(), folder / "s.zarr")
    return folder / "s.zarr"


@pytest.fixture
def store_copy(finished_store: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to damage."""
    shutil.copytree(finished_store, tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real examples beside the checkout; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the real examples are not beside this checkout ({SHARED.name} folder absent)")
    return SHARED
