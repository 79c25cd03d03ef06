"""Scripts of readers who have nothing of ours: every form of ``load_dataset``, and the other tools."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.hub.publishing import REPO, client
from wif_store.format.schema import SPLITS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.hub import Hub
    from wif_store.store.reader import ActivationStore

FORMS = f"""
import hashlib
import numpy as np
from datasets import load_dataset

def sha(values):
    values = np.stack(list(values)) if not isinstance(values, np.ndarray) else values
    assert values.dtype == np.float32, values.dtype
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()

REPO, LAYER = "{REPO}", "resid_post_02"
exact = {{"hf": {{"block_size": 1}}}}
together = load_dataset(REPO).with_format("numpy")
one = load_dataset(REPO, "winogrande").with_format("numpy")
test = load_dataset(REPO, "winogrande", split="test").with_format("numpy")
some = load_dataset(REPO, "winogrande", split="test", columns=[LAYER]).with_format("numpy")
stream = load_dataset(REPO, "winogrande", split="test", streaming=True).with_format("numpy")
part = load_dataset(REPO, "winogrande", split="test[:6]")
few = load_dataset(REPO, "winogrande", split="test", streaming=True, columns=[LAYER], storage_options=exact)
every = load_dataset(REPO, streaming=True, columns=["id"])
print(json.dumps(dict(
    together={{name: part.num_rows for name, part in together.items()}},
    tasks=sorted(set(together["train"]["task"][:].tolist())),
    layers={{name: {{c: sha(part[c][:]) for c in part.column_names if "resid" in c}}
            for name, part in one.items()}},
    forms=[sha(test[LAYER][:]), sha(some[LAYER][:]), sha(row[LAYER] for row in stream),
           sha(row[LAYER] for row in few.with_format("numpy"))],
    columns=some.column_names,
    balanced=[sum(part["success"][: n]) for n in (2, 4, 6)],
    ids=[row["id"] for row in every["test"]],
    first=load_dataset(REPO, "winogrande", split="train")[0],
    features=one["train"].features.to_dict(),
)))
"""

TOOLS = f"""
import hashlib
import duckdb, numpy as np, pandas, polars, xarray, zarr
import pyarrow.dataset, pyarrow.parquet
from huggingface_hub import HfFileSystem
folder = "datasets/{REPO}/data/winogrande/"
path, want = folder + "test-00000-of-00001.parquet", ["resid_post_01", "success"]
hub = HfFileSystem(block_size=1)
found = dict(
    pandas=pandas.read_parquet("hf://" + path, columns=want),
    pyarrow=pyarrow.parquet.read_table(path, columns=want, filesystem=hub).to_pandas(),
    polars=polars.read_parquet(hub.open(path), columns=want).to_pandas(),
)
files = pyarrow.dataset.dataset(path, filesystem=hub)
found["polars_lazy"] = polars.scan_pyarrow_dataset(files).select(want).collect().to_pandas()
duckdb.register_filesystem(hub)
found["duckdb"] = duckdb.sql(f"select resid_post_01, success from 'hf://{{folder}}test-*.parquet'").df()
values = {{name: (np.stack(frame[want[0]]), frame[want[1]].to_numpy()) for name, frame in found.items()}}
url = "hf://datasets/{REPO}/zarr/winogrande.zarr"
group, data = zarr.open_group(url, mode="r"), xarray.open_zarr(url, group="test")
values["zarr"] = group["test/final_token"][1], group["test/success"][:]
data = data.isel(layer=1)
values["xarray"] = data.final_token.to_numpy(), data.success.to_numpy()
print(json.dumps({{name: [hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest() for part in both]
                  for name, both in values.items()}}))
"""


def sha(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def read_every_form(hub: Hub, store: ActivationStore, cwd: Path) -> dict[str, Any]:
    """Read a published WinoGrande in every form; each number must be the store's. Gives what FORMS found."""
    found = client(hub, FORMS, cwd)
    for split in SPLITS:
        for layer in store.layers:
            read = found["layers"][split][f"resid_post_{layer:02d}"]
            assert read == sha(store.read_final_token(layer, split)[0]), (split, layer)
    assert found["forms"] == [sha(store.read_final_token(2, "test")[0])] * 4
    assert found["columns"] == ["resid_post_02"]
    assert found["balanced"] == [1, 2, 3], "every even prefix"
    wanted = [sha(part) for part in store.read_final_token(1, "test")]
    tools = "pandas", "pyarrow", "polars", "polars_lazy", "duckdb", "zarr", "xarray"
    assert client(hub, TOOLS, cwd) == dict.fromkeys(tools, wanted)
    return found
