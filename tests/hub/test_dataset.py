"""A published dataset as its readers meet it: ``load_dataset``, pandas, Arrow, Zarr, and back."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hub.publishing import REPO, ROOT, client, tree, wif
from tests.hub.readers import read_every_form
from wif_store.store.reader import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.hub import Hub
    from wif_store.store.reader import ActivationStore

pytestmark = pytest.mark.hub


@pytest.fixture
def published(hub: Hub, made: Callable[[str], Path]) -> dict[str, ActivationStore]:
    """Two tasks on the Hub, and their stores."""
    stores = {task: open_store(made(task)) for task in ("winogrande", "boolq")}
    run = wif(hub, "push", *(store.name for store in stores.values()), "--tag", "v1")
    assert run.returncode == 0, run.stderr
    assert "to upload:" in run.stderr
    assert "published:" in run.stderr
    return stores


@pytest.mark.slow
def test_every_form_is_bit_equal_to_the_store_and_comes_back(
    hub: Hub, published: dict[str, ActivationStore], tmp_path: Path
) -> None:
    store = published["winogrande"]
    found = read_every_form(hub, store, tmp_path)
    assert found["together"] == {"train": 32, "validation": 16, "test": 16}
    assert found["tasks"] == ["boolq", "winogrande"]
    assert found["ids"] == [
        e.id for task in ("boolq", "winogrande") for e in published[task].examples("test")
    ]
    first = found["first"]
    assert {name: first[name] for name in first if "resid" not in name} == store.table("train").to_pylist()[0]
    run = wif(hub, "pull", REPO, "--out", tmp_path / "back", "--revision", "v1")
    assert run.returncode == 0, run.stderr
    for task, store in published.items():
        assert tree(tmp_path / "back" / f"{task}.zarr") == tree(Path(store.name))


def test_the_examples_on_the_card_run(
    hub: Hub, published: dict[str, ActivationStore], tmp_path: Path
) -> None:
    card = hub.repo(REPO).read("README.md").decode()
    first, probe, stream, zarr = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len([line for line in first.splitlines() if line]) == 3
    shown = "print(json.dumps([activations.shape, str(activations.dtype), success.tolist()]))"
    assert client(hub, f"{first}\n{shown}", tmp_path) == [[8, 64], "float32", [1, 0] * 4]
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
