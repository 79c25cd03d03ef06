"""Everything by its default: build from Hub ids, push, ``load_dataset``, pull, all against one Hub."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.publish.publishing import REPO, client, tree, wif
from tests.support import tiny
from wif_store.schema import SPLITS
from wif_store.store import open_store

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
READ = f"""
import hashlib
import numpy as np
from datasets import load_dataset
found = load_dataset("{REPO}").with_format("numpy")
print(json.dumps({{name: {{c: hashlib.sha256(part[c][:].tobytes()).hexdigest() for c in part.column_names
                          if c.startswith("resid_post_")}} for name, part in found.items()}}))
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

    pushed = wif(hub, "push", cwd=tmp_path)
    assert pushed.returncode == 0, pushed.stderr
    found = client(hub, READ, tmp_path)
    for split in SPLITS:
        for layer in store.layers:
            values = np.ascontiguousarray(store.read_final_token(layer, split)[0])
            assert found[split][f"resid_post_{layer:02d}"] == hashlib.sha256(values.tobytes()).hexdigest()

    pulled = wif(hub, "pull", REPO, "--out", "back", cwd=tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    assert tree(tmp_path / "back" / "winogrande.zarr") == tree(path)
