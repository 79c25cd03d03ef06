"""What the campaign found, each by itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.support.stores import make_store
from wif_store.errors import StoreError
from wif_store.format.chunks import CHECKSUM, HEADER, ChunkError, crc32c, decode, encode
from wif_store.format.manifest import parse_manifest, render_manifest
from wif_store.format.schema import MANIFEST
from wif_store.storage import LocalStorage


@pytest.mark.parametrize("at", [3, 4, 8, 12], ids=["size of a value", "size", "size of a block", "length"])
def test_a_frame_that_lies_about_itself_is_never_given_to_blosc(at):
    """Blosc believes it, and reads beyond the chunk: the reader of a hostile store crashed."""
    values = np.arange(4096, dtype=np.float32)
    frame = bytearray(encode(values)[:-CHECKSUM])
    frame[at : at + (1 if at == 3 else 4)] = b"\x7f" if at == 3 else b"\xff\xff\xff\x7f"
    chunk = np.frombuffer(bytes(frame) + crc32c(bytes(frame)), np.uint8)
    with pytest.raises(ChunkError):
        decode(chunk, np.empty_like(values))
    assert len(chunk) > HEADER


def test_a_file_that_gets_its_name_while_the_folder_is_listed(tmp_path, monkeypatch):
    """The journal lists its blocks while another thread writes one: a build ended in `cannot write`."""
    storage = LocalStorage(tmp_path)
    storage.write("there", [b"1"])
    storage.write("renamed", [b"2"])
    scan = os.scandir

    class Late:
        """A listing that is out of date when it is read."""

        def __init__(self, folder):
            self.entries = list(scan(folder))
            Path(tmp_path, "renamed").unlink(missing_ok=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(os, "scandir", Late)
    assert storage.sizes() == {"there": 1}


@pytest.mark.parametrize(
    "audit",
    [
        {"counts": {"repeated": []}, "named": {}},
        {"counts": {}, "named": {"repeated": 3}},
        {"counts": {}, "named": {}, "published_source": {}},
        {"counts": {}, "named": {}, "published_source": {"counts": {"repeated": -1}, "named": {}}},
    ],
)
def test_an_audit_that_is_none_is_refused(audit, tmp_path):
    """It ended `wif-store audit` in a traceback."""
    store = make_store(tmp_path / "s.zarr")
    sections = json.loads((store / MANIFEST).read_bytes())
    with pytest.raises(StoreError, match=r"manifest\.json is not a valid manifest"):
        parse_manifest(render_manifest({**sections, "audit": audit}), "s.zarr")
