"""Everything by its default: build from Hub ids, push, read in every form, pull, all against one Hub."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.hub.publishing import REPO, tree, wif
from tests.hub.readers import read_every_form
from tests.support import tiny
from tests.support.schemas import checked
from wif_store.store.reader import open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.hub import Hub

pytestmark = pytest.mark.hub

CARD = b"""---
configs:
- config_name: winogrande_xl
  data_files: [{split: train, path: winogrande_xl/train-*}]
---
"""


def test_build_push_load_pull(hub: Hub, tiny_models: Callable[[str], Path], tmp_path: Path) -> None:
    rows = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(tiny.rows(120)), rows)
    model = hub.seed("google/gemma-2-2b", "model", {"": tiny_models("gemma2")})
    source = hub.seed(
        "allenai/winogrande",
        "dataset",
        {"README.md": CARD, "winogrande_xl/train-00000-of-00001.parquet": rows.getvalue()},
    )

    built = wif(hub, "build", "--task", "winogrande", "--per-class", 12, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    path = tmp_path / "stores" / "gemma-2-2b" / "aligned" / "winogrande.zarr"
    store = open_store(path)
    assert (store.manifest.model["id"], store.manifest.model["revision"]) == ("google/gemma-2-2b", model.sha)
    assert (store.manifest.source["id"], store.manifest.source["revision"]) == (
        "allenai/winogrande",
        source.sha,
    )

    pushed = wif(hub, "push", "--json", cwd=tmp_path)
    assert pushed.returncode == 0, pushed.stderr
    said = checked("push", pushed.stdout)
    assert said["url"].endswith(REPO) and said["uploaded"] > 0
    read_every_form(hub, store, tmp_path)

    pulled = wif(hub, "pull", REPO, "--out", "back", "--json", cwd=tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    [said] = checked("pull", pulled.stdout)["stores"]
    assert (said["task"], said["path"]) == ("winogrande", "back/winogrande.zarr")
    assert tree(tmp_path / "back" / "winogrande.zarr") == tree(path)
