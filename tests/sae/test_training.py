"""SAEs that are trained on a store: they find what was planted, twice the same, and open as any other."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from tests.support.command import run
from tests.support.saes import LAYERS, WIDTH, planted_store
from tests.support.stores import make_store
from wif_store import open_store
from wif_store.errors import SaeError
from wif_store.sae import library, training
from wif_store.sae.autoencoder import variance_explained
from wif_store.sae.opening import open_sae
from wif_store.sae.training import train_sae
from wif_store.scorer.provenance import describe_store

QUICK = {"width": 64, "k": 4, "tokens": 60_000, "batch": 256, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(planted_store(tmp_path_factory.mktemp("planted") / "s.zarr"))


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    return train_sae([store], 1, tmp_path_factory.mktemp("saes") / "one", **QUICK)


def tokens_of(store, split, layer=1):
    tokens, offsets = store.read_sequences(layer, split)
    return np.delete(tokens, offsets[:-1], axis=0)


def weights_of(found):
    return hashlib.sha256((found.folder / "sae_weights.safetensors").read_bytes()).hexdigest()


def test_what_was_planted_is_found(store, trained):
    assert trained.variance_explained > 0.9
    assert trained.width == 64
    assert 0 <= trained.dead < 64 - 40
    train = store.manifest.splits["train"]
    assert trained.outliers == train["examples"]  # the first token of each
    assert trained.tokens == train["tokens"] - train["examples"]


def test_a_trained_sae_opens_as_any_other(store, trained):
    sae = open_sae(str(trained.folder), 1, store)
    assert (sae.d_model, sae.width) == (WIDTH, 64)
    held_out = tokens_of(store, "validation")
    assert variance_explained(sae, held_out) == pytest.approx(trained.variance_explained, abs=1e-4)
    features = sae.encode(held_out)
    assert features.nnz == pytest.approx(4 * len(held_out), rel=0.05)
    with torch.no_grad():
        theirs = library.SAE.load_from_disk(trained.folder).encode(torch.from_numpy(held_out)).numpy()
    np.testing.assert_allclose(features.toarray(), theirs, rtol=0, atol=1e-5)
    active = np.diff(sae.encode(tokens_of(store, "train")).tocsc().indptr)
    assert (active == 0).sum() == trained.dead
    with pytest.raises(SaeError, match=r"reads 'blocks.1.hook_resid_post'"):
        open_sae(str(trained.folder), 3, store)


def test_what_is_saved_says_where_it_is_from(store, trained):
    metadata = json.loads((trained.folder / "cfg.json").read_text())["metadata"]
    assert metadata["model_name"] == "google/gemma-2-2b"
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"
    ours = metadata["wif_store"]
    assert (ours["split"], ours["seed"]) == ("train", 0)
    # The same hash as results have.
    assert ours["stores"] == {"winogrande": describe_store(store)["manifest_sha256"]}
    assert ours["variance_explained"] == trained.variance_explained
    assert [path.name for path in trained.folder.parent.iterdir()] == ["one"]


def test_the_same_call_gives_the_same_sae(store, tmp_path):
    quick = QUICK | {"tokens": 5_000}
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    steps = []
    one = train_sae([store], 1, tmp_path / "1", **quick, progress=lambda *done: steps.append(done))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert steps == [(n, 20) for n in range(1, 21)]
    assert weights_of(train_sae([store], 1, tmp_path / "2", **quick)) == weights_of(one)
    assert weights_of(train_sae([store], 1, tmp_path / "3", **quick, seed=1)) != weights_of(one)


def test_a_large_split_is_drawn_from(store, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "HELD_BYTES", 1000 * 4 * WIDTH)
    monkeypatch.setattr(training, "VALIDATION_BYTES", 100 * 4 * WIDTH)
    found = train_sae([store], 1, tmp_path / "s", **QUICK | {"tokens": 2_000})
    assert found.tokens + found.outliers == 1000
    assert found.outliers > 0


def test_stores_of_one_model_are_trained_on_together(store, tmp_path):
    both = train_sae([store, store], 1, tmp_path / "both", **QUICK | {"tokens": 2_000})
    alone = train_sae([store], 1, tmp_path / "alone", **QUICK | {"tokens": 2_000})
    assert both.tokens == 2 * alone.tokens
    other = open_store(make_store(tmp_path / "o.zarr", d_model=WIDTH, sequence_layers=4, id="another/model"))
    with pytest.raises(SaeError, match=r"is of the model google/gemma-2-2b @ .* of another/model @"):
        train_sae([store, other], 1, tmp_path / "new", **QUICK)


def test_what_cannot_be_trained_is_refused(store, trained, tmp_path):
    def refused(match, layer=1, out=tmp_path / "new", **options):
        with pytest.raises(SaeError, match=match) as error:
            train_sae([store], layer, out, **QUICK | options)
        assert str(error.value).isprintable()

    refused(rf"no sequence residuals of layer 2; it has: {LAYERS[0]}, {LAYERS[1]}\.", layer=2)
    refused("is there already: remove it", out=trained.folder)
    refused("k is 65 and the width is 64", k=65)
    refused("k is 0; expected more than 0", k=0)
    refused("learning_rate is nan", learning_rate=float("nan"))
    refused(r"train tokens; expected at least 100000 for 100000 features", width=100_000)
    (tmp_path / "file").touch()
    refused("cannot be written", out=tmp_path / "file" / "sae")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_command_trains_and_says_what_came_of_it(store, tmp_path):
    out = tmp_path / "sae"
    quick = ("--width", 64, "--k", 4, "--tokens", 20_000)
    done = run("sae", "train", store.name, "--layer", 3, "--out", out, *quick)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{out}: 64 features, 4 active at a token, of layer 3 of {store.name}"
    assert "outlying norm left out" in lines[1]
    assert lines[2].startswith("  variance explained on validation tokens: 0.")
    assert "active at none" in lines[3]
    assert open_sae(str(tmp_path / "sae"), 3, store).width == 64
    again = run("sae", "train", store.name, "--layer", 3, "--out", out, *quick)
    assert again.returncode == 1
    assert again.stderr.startswith(f"error: {out} is there already")
