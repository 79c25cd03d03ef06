"""The fixture ``hub``: a fresh loopback Hub for one test."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from tests.support.hub import Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on 127.0.0.1; clients of this process take the LFS path, as ``env`` makes others do."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    root = tmp_path / "hub"
    root.mkdir()
    with Hub(root) as hub:
        yield hub
        huggingface_hub.close_session()
        assert not hub.broken
