"""What a reader of one layer fetches, counted by the server, at the width of Gemma-2 2B."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.hub.publishing import REPO, ROOT, client, wif
from tests.support.stores import make_store
from wif_store.format.chunks import index_bytes, read_index
from wif_store.format.metadata import layouts_of
from wif_store.format.schema import SPLITS
from wif_store.store.reader import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.hub import Hub

pytestmark = pytest.mark.hub

STREAM = f"""
from datasets import load_dataset
parts = load_dataset("{REPO}", "winogrande", streaming=True, columns=["resid_post_01"], **OPTIONS)
print(json.dumps({{name: sum(1 for _ in part) for name, part in parts.items()}}))
"""
READ = f"""
import sys
import numpy as np
from wif_store import open_store
values, success = open_store("hf://datasets/{REPO}/zarr/winogrande.zarr").read_final_token(1, "test")
np.save(sys.argv[1], values)
"""
READ_TOKENS = READ.replace("read_final_token", "read_sequences")


def stored(store: Path, array: str, row: int, split: str) -> int:
    """Bytes that one layer of a split takes in the store."""
    layout = layouts_of(open_store(store).manifest)[f"{split}/{array}"]
    count, size = math.prod(layout.chunks_per_shard), 0
    for file in layout.files:
        content = (store / split / array / file).read_bytes()
        end = len(content) - index_bytes(count)
        lengths = read_index(content[end:], count, end)[:, 1].reshape(layout.chunks_per_shard)[row]
        size += int(lengths[lengths > 0].sum())
    return size


def fetched(hub: Hub, script: str, out: Path) -> int:
    hub.log.clear()
    env = hub.environ(PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, "-c", script, str(out)], env=env, check=True, timeout=120)
    return hub.log.sent()


@pytest.mark.parametrize("per_class", [400, pytest.param(2000, marks=pytest.mark.slow)])
def test_one_layer_is_what_is_fetched(hub: Hub, tmp_path: Path, per_class: int) -> None:
    path = make_store(
        tmp_path / "w.zarr", per_class=per_class, layers=3, sequence_layers=3, d_model=2304, tokens=1
    )
    assert wif(hub, "push", path).returncode == 0
    store = open_store(path)
    out = tmp_path / "values.npy"

    ratios = {}
    for array, script in (("final_token", READ), ("sequence", READ_TOKENS)):
        ratios[array] = fetched(hub, script, out) / stored(path, array, 1, "test")
        reader = store.read_final_token if array == "final_token" else store.read_sequences
        assert np.array_equal(np.load(out), reader(1, "test")[0])
    assert max(ratios.values()) <= 1.15, ratios

    layer = sum(stored(path, "final_token", 1, split) for split in SPLITS)
    hub.log.clear()
    rows = client(hub, f"OPTIONS = dict(storage_options={{'hf': {{'block_size': 1}}}})\n{STREAM}", tmp_path)
    assert sum(rows.values()) == 2 * per_class
    assert hub.log.sent() <= 1.5 * layer
    if per_class == 2000:
        # Without the option the client reads 5 MiB ahead in each of the three files.
        hub.log.clear()
        client(hub, f"OPTIONS = {{}}\n{STREAM}", tmp_path)
        assert hub.log.sent() <= layer * 1.1 + 3 * 5 * 2**20


CHANGED = f"""
import json, sys
from huggingface_hub import HfApi
from wif_store import open_store
store = open_store("hf://datasets/{REPO}/zarr/winogrande.zarr")
at = dict(path_in_repo="zarr/winogrande.zarr/test/success/c/0", repo_id="{REPO}", repo_type="dataset")
HfApi().upload_file(path_or_fileobj=b"another store", **at)
print(json.dumps(store.success("test").tolist()))
"""


def test_a_store_that_is_open_does_not_see_what_is_pushed_later(hub: Hub, tmp_path: Path) -> None:
    path = make_store(tmp_path / "w.zarr")
    assert wif(hub, "push", path).returncode == 0
    env = hub.environ(PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", CHANGED], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == f"{open_store(path).success('test').tolist()}\n", done.stderr
