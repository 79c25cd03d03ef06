"""The fixture ``hub``: a fresh loopback Hub for one test."""

from collections.abc import Iterator

import huggingface_hub
import huggingface_hub.utils
import pytest

from tests.support.hub import Hub


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on 127.0.0.1; clients of this process take the LFS path, as ``env`` makes others do."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # A bar of an upload that failed would be drawn when it is collected, after the last line of the run.
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.close_session()
    with Hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub
        huggingface_hub.close_session()
        assert not hub.broken
