"""A published dataset as its readers meet it: ``load_dataset``, pandas, Arrow, Zarr, and back."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.publish.publishing import REPO, ROOT, client, tree, wif
from wif_store.schema import SPLITS
from wif_store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.hub import Hub
    from wif_store.store import ActivationStore

pytestmark = pytest.mark.hub

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
whole = load_dataset(REPO).with_format("numpy")
one = load_dataset(REPO, "winogrande").with_format("numpy")
test = load_dataset(REPO, "winogrande", split="test").with_format("numpy")
some = load_dataset(REPO, "winogrande", split="test", columns=[LAYER]).with_format("numpy")
stream = load_dataset(REPO, "winogrande", split="test", streaming=True).with_format("numpy")
few = load_dataset(REPO, "winogrande", split="test", streaming=True, columns=[LAYER], storage_options=exact)
every = load_dataset(REPO, streaming=True, columns=["id"])
print(json.dumps(dict(
    whole={{name: part.num_rows for name, part in whole.items()}},
    tasks=sorted(set(whole["train"]["task"][:].tolist())),
    layers={{name: {{c: sha(part[c][:]) for c in part.column_names if "resid" in c}}
            for name, part in one.items()}},
    forms=[sha(test[LAYER][:]), sha(some[LAYER][:]), sha(row[LAYER] for row in stream),
           sha(row[LAYER] for row in few.with_format("numpy"))],
    columns=some.column_names,
    ids=[row["id"] for row in every["test"]],
    first=load_dataset(REPO, "winogrande", split="train")[0],
    features=one["train"].features.to_dict(),
)))
"""


def sha(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


@pytest.fixture
def published(hub: Hub, made: Callable[[str], Path]) -> dict[str, ActivationStore]:
    """Two tasks on the Hub, and their stores."""
    stores = {task: open_store(made(task)) for task in ("winogrande", "boolq")}
    run = wif(hub, "push", *(store.name for store in stores.values()), "--tag", "v1")
    assert run.returncode == 0, run.stderr
    assert "to upload:" in run.stderr
    assert "published:" in run.stderr
    return stores


def test_every_form_is_bit_equal_to_the_store_and_comes_back(
    hub: Hub, published: dict[str, ActivationStore], tmp_path: Path
) -> None:
    store = published["winogrande"]
    found = client(hub, FORMS, tmp_path)
    assert found["whole"] == {"train": 32, "validation": 16, "test": 16}
    assert found["tasks"] == ["boolq", "winogrande"]
    for split in SPLITS:
        for layer in store.layers:
            assert found["layers"][split][f"resid_post_{layer:02d}"] == sha(
                store.read_final_token(layer, split)[0]
            )
    assert set(found["forms"]) == {sha(store.read_final_token(2, "test")[0])}
    assert found["columns"] == ["resid_post_02"]
    assert found["ids"] == [
        e.id for task in ("boolq", "winogrande") for e in published[task].examples("test")
    ]
    first, example = found["first"], store.examples("train")[0]
    assert {name: first[name] for name in first if "resid" not in name} == {
        "id": example.id,
        "task": "winogrande",
        "prompt": example.prompt,
        "choices": list(example.choices),
        "gold": example.gold,
        "prediction": example.prediction,
        "success": example.success,
        "choice_logprobs": list(example.choice_logprobs),
        "choice_tokens": list(example.choice_tokens),
        "final_token_position": example.final_token_position,
        "source_row": example.source_row,
    }
    run = wif(hub, "pull", REPO, "--out", tmp_path / "back", "--revision", "v1")
    assert run.returncode == 0, run.stderr
    for task, store in published.items():
        assert tree(tmp_path / "back" / f"{task}.zarr") == tree(Path(store.name))


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
group, data = zarr.open_group(url, mode="r"), xarray.open_zarr(url)
start, examples = (group.attrs["splits"]["test"][n] for n in ("start", "examples"))
rows = slice(start, start + examples)
values["zarr"] = group["final_token"][1, rows], group["success"][rows]
data = data.isel(layer=1, example=rows)
values["xarray"] = data.final_token.to_numpy(), data.success.to_numpy()
print(json.dumps({{name: [hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest() for part in both]
                  for name, both in values.items()}}))
"""


def test_other_tools_read_it_in_place(
    hub: Hub, published: dict[str, ActivationStore], tmp_path: Path
) -> None:
    found = client(hub, TOOLS, tmp_path)
    wanted = [sha(part) for part in published["winogrande"].read_final_token(1, "test")]
    assert found == dict.fromkeys(
        ("pandas", "pyarrow", "polars", "polars_lazy", "duckdb", "zarr", "xarray"), wanted
    )


def test_the_examples_on_the_card_run(
    hub: Hub, published: dict[str, ActivationStore], tmp_path: Path
) -> None:
    card = hub.repo(REPO).read("README.md").decode()
    probe, stream, zarr = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len([line for line in probe.splitlines() if line]) == 10
    auroc = client(hub, probe, tmp_path)
    assert 0 <= auroc <= 1
    rows = client(
        hub,
        f"from datasets import load_dataset\n{stream}\nprint(json.dumps(sum(1 for _ in rows)))",
        tmp_path,
    )
    assert rows == 16
    ours = f"{zarr}\nprint(tokens.shape, offsets.shape)"
    run = subprocess.run(
        [sys.executable, "-c", ours],
        env=hub.environ(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.endswith("(9,)\n")
