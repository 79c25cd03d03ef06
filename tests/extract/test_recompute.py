"""A store's numbers are what its recorded model computes; numbers that are not are found out."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import zarr

from tests.support import tiny
from tests.support.stores import seal
from wif_store.builder.pipeline import Settings, build
from wif_store.errors import DamageError, ModelError, SourceError
from wif_store.extract.engine import open_engine
from wif_store.extract.recompute import recompute
from wif_store.tasks.rows import load_source
from wif_store.store.reader import open_store
from wif_store.tasks import get_task
from wif_store.store.verify import verify_store

TASK = get_task("winogrande")


@pytest.fixture(scope="module")
def make(tiny_models, rows_file, tmp_path_factory):
    """A store of a tiny architecture, made on first use."""
    root = tmp_path_factory.mktemp("recompute")

    def get(architecture, dtype="float32", protocol="aligned"):
        out = root / f"{architecture}-{dtype}-{protocol}.zarr"
        if not out.exists():
            settings = Settings(TASK, TASK.protocol(protocol), per_class=None)
            engine = open_engine(
                str(tiny_models(architecture)),
                settings.protocol,
                sequence_layers="1,3",
                dtype=dtype,
                device="cpu",
            )
            build(settings, load_source(TASK, str(rows_file)), engine, out)
        return out

    return get


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_architecture_is_what_it_says(architecture, dtype, make, tiny_models, rows_file):
    store = open_store(make(architecture, dtype))
    found = recompute(store, 8, model=str(tiny_models(architecture)), source=str(rows_file))
    assert found.examples == 8
    assert found.labels
    tokens = sum(len(store.examples()[i].token_ids) for i in np.linspace(0, len(store) - 1, 8).astype(int))
    assert found.vectors == 8 * 4 + 2 * tokens
    assert found.largest < (1e-5 if dtype == "float32" else 5e-2)


@pytest.mark.parametrize("protocol", ["mcq", "paper"])
def test_every_protocol_is_what_it_says(protocol, make, tiny_models, rows_file):
    store = open_store(make("llama", protocol=protocol))
    assert recompute(store, 4, model=str(tiny_models("llama")), source=str(rows_file)).labels


def test_without_a_source_the_residuals_alone_are_compared(make, tiny_models):
    found = recompute(open_store(make("llama")), 2, model=str(tiny_models("llama")))
    assert not found.labels
    assert "labels were not recomputed" in str(found)


def tampered(store, folder, name, change):
    """A copy with other numbers in one array, its checksums and its manifest made to fit."""
    out = folder / "t.zarr"
    shutil.copytree(store, out)
    array = zarr.open_group(out, mode="r+")[name]
    array[...] = change(array[...])
    seal(out, json.loads((out / "manifest.json").read_bytes()))
    return out


def scaled(values):
    """One layer's residuals at every token, a thousandth larger."""
    values[1] *= np.float32(1.001)
    return values


def renamed(values):
    """Two examples' ids exchanged: each now stands with the other's numbers."""
    return np.concatenate([values[1::-1], values[2:]])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "sequence",
            lambda v: np.roll(v, 1, axis=1),
            "the residuals of layer 1 are not what the model computes",
        ),
        ("choice_logprob", lambda v: v - 1, "the log-likelihoods are not what"),
        ("source_row", lambda v: v + 1, "the gold answer or row are not what"),
        ("example_id", renamed, "the gold answer or row are not what"),
    ],
)
def test_numbers_that_fit_their_checksums_but_not_the_model(
    name, change, message, make, tiny_models, rows_file, tmp_path
):
    out = tampered(make("llama"), tmp_path, name, change)
    if name != "sequence":
        verify_store(out)  # nothing but the model can tell
    with pytest.raises(DamageError, match=message):
        recompute(open_store(out), 99, model=str(tiny_models("llama")), source=str(rows_file))


def test_a_thousandth_is_seen_in_float32(make, tiny_models, tmp_path):
    out = tampered(make("llama"), tmp_path, "final_token", scaled)
    with pytest.raises(DamageError, match=r"layer 1 are not what the model computes \(relative L2 1\.0e-03"):
        recompute(open_store(out), 4, model=str(tiny_models("llama")))


def test_another_revision_is_said(make, tiny_models, rows_file, tmp_path):
    store = open_store(make("llama"))
    with pytest.raises(ModelError, match="name the place with --model"):
        recompute(store, 2)
    other = tiny.save_model("llama", tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match=r"is of revision sha256:\w+; the store was computed with llama of"):
        recompute(store, 2, model=str(other))
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(20))
    with pytest.raises(SourceError, match="holds other rows than the store was built from"):
        recompute(store, 2, model=str(tiny_models("llama")), source=str(rows))
