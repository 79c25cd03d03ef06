"""Pull: whole stores byte for byte, some layers as a smaller store, and nothing half-made."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.hub.loopback import UPLOAD_WARNING
from tests.hub.publishing import REPO, dataset, push, tree, wif
from wif_store.errors import DamageError, PublishError
from wif_store.hub.pull import Pull
from wif_store.hub.staging import stage
from wif_store.format.schema import SPLITS
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.hub import Hub

pytestmark = [pytest.mark.hub, UPLOAD_WARNING]


@pytest.fixture
def store(hub: Hub, made: Callable[[str], Path]) -> Path:
    """A store that is published."""
    push(hub, made("winogrande"))
    return made("winogrande")


def test_a_whole_store_comes_back(hub: Hub, store: Path, tmp_path: Path) -> None:
    pull, out = Pull.open(dataset(hub)), tmp_path / "deep" / "w.zarr"
    assert pull.pull("winogrande", out).fetched > 0
    assert tree(out) == tree(store)
    assert [p.name for p in out.parent.iterdir()] == ["w.zarr"]
    assert pull.pull("winogrande", out).fetched == 0
    assert [p.name for p in out.parent.iterdir()] == ["w.zarr"]


def test_some_layers_make_a_smaller_store(hub: Hub, store: Path, tmp_path: Path) -> None:
    whole, out = open_store(store), tmp_path / "w.zarr"
    hub.log.clear()
    Pull.open(dataset(hub)).pull("winogrande", out, [2, 3])
    assert hub.log.count("GET .*/final_token/c/[01]/|GET .*/sequence/c/0/") == 0
    part = open_store(out)
    verify_store(out)
    assert (part.layers, part.sequence_layers) == ((2, 3), (2,))
    for split in SPLITS:
        for layer in part.layers:
            assert np.array_equal(
                part.read_final_token(layer, split)[0], whole.read_final_token(layer, split)[0]
            )
        assert np.array_equal(part.read_sequences(2, split)[0], whole.read_sequences(2, split)[0])
    assert [e.id for e in part.examples()] == [e.id for e in whole.examples()]
    assert Pull.open(dataset(hub)).pull("winogrande", out, [3, 2]).fetched == 0
    with pytest.raises(PublishError, match="another store, or other layers"):
        Pull.open(dataset(hub)).pull("winogrande", out, [2])
    with pytest.raises(PublishError, match="was pulled in part"):
        stage(out)


def test_a_layer_without_sequences_makes_a_store_without_sequences(
    hub: Hub, store: Path, tmp_path: Path
) -> None:
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr", [1])
    part = open_store(tmp_path / "w.zarr")
    assert (part.layers, part.sequence_layers) == ((1,), ())


def test_a_changed_byte_is_noticed_and_fetched_again(hub: Hub, store: Path, tmp_path: Path) -> None:
    once = hub.fail("GET /cdn/.*/final_token/c/0", corrupt=True)
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr")
    assert once.hits == 1
    assert tree(tmp_path / "w.zarr") == tree(store)
    hub.fail("GET /cdn/.*/final_token/c/0", corrupt=True, times=None)
    with pytest.raises(DamageError, match="final_token/c/0/0/0 does not have its SHA-256, fetched twice"):
        Pull.open(dataset(hub)).pull("winogrande", tmp_path / "x.zarr")
    assert not (tmp_path / "x.zarr").exists()
    hub.heal()
    hub.log.clear()
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "x.zarr")
    assert tree(tmp_path / "x.zarr") == tree(store)
    assert hub.log.count("GET /cdn/.*/final_token/") < 4, "what was here is not fetched again"


def test_a_reset_is_waited_out(hub: Hub, store: Path, tmp_path: Path, impatient: list[float]) -> None:
    hub.fail("GET /cdn/.*/sequence/", reset_after=100, times=3)
    hub.fail("GET .*/tree/", status=500)
    Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr")
    assert tree(tmp_path / "w.zarr") == tree(store)


def test_what_stands_in_the_way_is_left_alone(hub: Hub, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.zarr"
    shutil.copytree(store, out)
    (out / "success" / "c" / "0").write_bytes(b"")
    with pytest.raises(PublishError, match="exists and is not a whole store"):
        Pull.open(dataset(hub)).pull("winogrande", out)
    assert (out / "success" / "c" / "0").read_bytes() == b""


def test_what_is_not_there_is_named(hub: Hub, store: Path, tmp_path: Path) -> None:
    pull = Pull.open(dataset(hub))
    with pytest.raises(PublishError, match=r"has no store of piqa; it has: winogrande"):
        pull.pull("piqa", tmp_path / "p.zarr")
    with pytest.raises(PublishError, match=r"winogrande.zarr has no layer 9; it has: 0, 1, 2, 3"):
        pull.pull("winogrande", tmp_path / "w.zarr", [1, 9])
    with pytest.raises(PublishError, match="no such branch, tag or commit"):
        Pull.open(dataset(hub), "v9")
    with pytest.raises(PublishError, match="no such dataset"):
        Pull.open(dataset(hub, repo="whyitfailed/none"))


def test_the_command(hub: Hub, store: Path, tmp_path: Path) -> None:
    run = wif(hub, "pull", REPO, "--task", "winogrande", "--layers", "1,2", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "stores" / "whyitfailed" / "gemma2-acts" / "winogrande.zarr"
    assert open_store(folder).layers == (1, 2)
    run = wif(hub, "pull", REPO, "--layers", "one", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (
        1,
        "error: --layers is 'one'; expected all, or 0-based blocks as in 5,10\n",
    )
