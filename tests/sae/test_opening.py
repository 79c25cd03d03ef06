"""SAEs as SAELens has them, and every SAE that does not belong to a store."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import wif_store.sae
from tests.support.manifests import manifest_of
from tests.support.saes import residuals, save_sae
from wif_store.errors import SaeError
from wif_store.sae import library
from wif_store.sae.autoencoder import variance_explained
from wif_store.sae.names import plain_name
from wif_store.sae.opening import open_sae

MANIFEST = manifest_of()


def manifest_with(**model):
    return dataclasses.replace(MANIFEST, model={**MANIFEST.model, **model})


def refused(match, spec, layer=1, manifest=MANIFEST):
    with pytest.raises(SaeError, match=match) as error:
        open_sae(str(spec), layer, manifest)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("standard", {}),
        ("standard", {"normalize_activations": "layer_norm"}),
        ("standard", {"apply_b_dec_to_input": False, "normalize_activations": "constant_norm_rescale"}),
        ("topk", {"k": 4}),
        ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True}),
        ("jumprelu", {}),
        ("gated", {}),
        ("abstopk", {"k": 4}),
        ("matching_pursuit", {"max_iterations": 4}),
    ],
)
def test_features_are_those_of_saelens(architecture, options, tmp_path, monkeypatch):
    save_sae(tmp_path, architecture, **options)
    theirs = library.SAE.load_from_disk(tmp_path)
    x = residuals()
    with torch.no_grad():
        features = theirs.encode(torch.from_numpy(x)).numpy()
        back = theirs(torch.from_numpy(x)).numpy()
    monkeypatch.setattr(library, "BATCH_VALUES", 7 * 24)  # seven rows at a time
    sae = open_sae(str(tmp_path), 1, MANIFEST)
    assert (sae.layer, sae.d_model, sae.width, sae.name) == (1, 16, 24, str(tmp_path))
    found = sae.encode(np.asfortranarray(x))
    assert (found.format, found.dtype, found.shape) == ("csr", np.float32, (50, 24))
    np.testing.assert_allclose(found.toarray(), features, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.toarray() != 0, features != 0)
    assert 0 < found.nnz < features.size
    lost = np.square(x - back).sum() / np.square(x - x.mean(axis=0)).sum()
    assert variance_explained(sae, x) == pytest.approx(1 - lost, abs=1e-5)
    if options.get("normalize_activations"):
        with pytest.raises(SaeError, match="by its own norm"):
            sae.decode(found)
    else:
        np.testing.assert_allclose(sae.decode(found), back, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(sae.direction(3), theirs.W_dec[3].detach().numpy())


def test_what_is_encoded_may_be_empty_and_is_left_as_it_is(tmp_path):
    save_sae(tmp_path)
    sae = open_sae(str(tmp_path), 1, MANIFEST)
    assert sae.encode(np.empty((0, 16), np.float32)).shape == (0, 24)
    x = residuals()
    x.flags.writeable = False
    sae.encode(x)
    variance_explained(sae, x)
    with pytest.raises(SaeError, match=r"shape \(50, 8\); expected \(n, 16\)"):
        sae.encode(residuals(width=8))
    with pytest.raises(SaeError, match=r"expected \(n, 24\)"):
        sae.decode(sae.encode(x)[:, :5])
    with pytest.raises(SaeError, match="no feature 24; it has 24, from 0"):
        sae.direction(24)
    with pytest.raises(SaeError, match="do not vary"):
        variance_explained(sae, x[:1])


def test_the_layer_is_filled_in(tmp_path):
    for layer in (1, 2):
        save_sae(tmp_path / f"l{layer}", hook=f"blocks.{layer}.hook_resid_post")
    spec = str(tmp_path / "l{layer}")
    assert [open_sae(spec, layer, MANIFEST).name for layer in (1, 2)] == [
        str(tmp_path / f"l{layer}") for layer in (1, 2)
    ]
    refused(
        r"reads 'blocks.1.hook_resid_post'; .* 'blocks.2.hook_resid_post': .* write \{layer\}",
        tmp_path / "l1",
        2,
    )


def test_labels_are_read_where_a_folder_has_them(tmp_path):
    save_sae(tmp_path)
    assert open_sae(str(tmp_path), 1, MANIFEST).label(3) is None
    (tmp_path / "labels.json").write_text('{"3": "days of the week"}')
    sae = open_sae(str(tmp_path), 1, MANIFEST)
    assert sae.label(3) == "days of the week"
    assert sae.label(4) is None
    for wrong in ('{"a": "b"}', '{"3": 4}', "[]", "{"):
        (tmp_path / "labels.json").write_text(wrong)
        refused("labels.json", tmp_path)


@pytest.mark.parametrize("hook", ["blocks.1.hook_mlp_out", "blocks.1.hook_resid_pre", "hook_embed", None])
def test_another_site_is_refused(hook, tmp_path):
    save_sae(tmp_path, hook=hook)
    refused(f"reads {hook!r}; .* 'blocks.1.hook_resid_post': choose an SAE of the residual stream", tmp_path)


def test_another_width_is_refused(tmp_path):
    save_sae(tmp_path, d_in=12)
    refused("takes 12 numbers; the store has d_model 16: choose an SAE of its model, 'made/up'", tmp_path)


def test_another_model_is_refused(tmp_path):
    save_sae(tmp_path, model="gemma-2-2b")
    refused("is of the model 'gemma-2-2b'; the store is of 'made/up'", tmp_path)
    for same in ({"id": "google/gemma-2-2b"}, {"id": "somewhere", "kind": "local"}):
        assert open_sae(str(tmp_path), 1, manifest_with(**same)).width == 24
    save_sae(tmp_path, model=None)
    assert open_sae(str(tmp_path), 1, MANIFEST).width == 24


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("gemma-3-270m", "gemma3-270m", True),
        ("google/gemma-3-270m (Q4_K_M, dequantised)", "google/gemma-3-270m-pt", True),
        ("gemma-2-2b", "google/Gemma-2-2B", True),
        ("gemma-2-2b", "gemma-2-2b-it", False),
        ("gemma-3-1b-pt", "gemma-3-270m", False),
        ("gpt2-small", "openai-community/gpt2", True),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "HuggingFaceTB/SmolLM2-135M-Instruct", True),
        ("llama-3.1-8b", "llama-3-1-8b", True),
    ],
)
def test_names_of_a_model(one, other, same):
    assert (plain_name(one) == plain_name(other)) is same


def test_weights_that_are_damaged_are_refused(tmp_path):
    sae = save_sae(tmp_path)
    with torch.no_grad():
        sae.b_enc[3] = float("nan")
    sae.save_model(tmp_path)
    refused(r"NaN or infinite \(b_enc\)", tmp_path)
    weights = tmp_path / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused("cannot be read as an SAE", tmp_path)
    weights.unlink()
    refused("has no sae_weights.safetensors; expected a folder of SAELens' format", tmp_path)


def test_a_configuration_that_is_damaged_is_refused(tmp_path):
    save_sae(tmp_path)
    path = tmp_path / "cfg.json"
    config = json.loads(path.read_text())

    def written(**changes):
        path.write_text(json.dumps({**config, **changes}))
        return tmp_path

    refused("cannot be read as an SAE", written(d_sae=23))
    refused("cannot be read as an SAE", written(d_in="16"))
    refused(
        "has the architecture 'temporal'; expected one that encodes a token by itself",
        written(architecture="temporal"),
    )
    refused("has the architecture 'batchtopk'", written(architecture="batchtopk"))
    refused(r"has the architecture \['x'\]", written(architecture=["x"]))
    refused("is a jumprelu_transcoder, which reads one site", written(architecture="jumprelu_transcoder"))
    refused("is a crosscoder", written(architecture="crosscoder"))
    refused("scales its input", written(normalize_activations="expected_average_only_in"))
    path.write_text("[1]")
    refused("cfg.json holds a list; expected an object", tmp_path)
    path.write_text("{")
    refused("cfg.json cannot be read as JSON", tmp_path)
    path.unlink()
    refused("has no cfg.json", tmp_path)


def test_a_name_that_stands_for_nothing_is_refused(tmp_path):
    refused("there is no folder nothing; expected a folder of SAELens' format, or RELEASE/ID", "nothing")
    refused("there is no folder ./a/b", "./a/b")
    refused("there is no folder /a/b", "/a/b")
    close = "close to it: gemma-scope-2b-pt-res-canonical"
    refused(f"knows no release 'gemma-scope-2b-res-canonical'; {close}", "gemma-scope-2b-res-canonical/a/b")
    refused(
        "has no SAE 'layer_1/width_16k/canon'; close to it: layer_1/width_16k/canonical",
        "gemma-scope-2b-pt-res-canonical/layer_{layer}/width_16k/canon",
    )
    (tmp_path / "file").touch()
    refused("has no cfg.json", tmp_path / "file")


def test_a_release_of_another_model_is_refused_before_it_is_fetched(monkeypatch):
    monkeypatch.setattr(library, "load_release", lambda *given: pytest.fail("fetched"))
    refused(
        "is of the model 'google/gemma-3-270m'",
        "gemma-scope-2-270m-pt-res-all/layer_{layer}_width_16k_l0_small",
    )


def test_a_release_that_cannot_be_fetched_is_refused(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it would try again for a while
    gemma = manifest_with(id="google/gemma-2-2b", kind="hub", d_model=2304)
    refused(
        "could not be fetched or read",
        "gemma-scope-2b-pt-res-canonical/layer_{layer}/width_16k/canonical",
        1,
        gemma,
    )


def test_the_model_of_a_release_is_that_of_the_registry(monkeypatch, tmp_path):
    """A loader of SAELens may give every model of a family one name."""
    sae = save_sae(tmp_path, model="google/gemma-3-1b-pt", hook="blocks.5.hook_resid_post")
    asked = []
    monkeypatch.setattr(library, "load_release", lambda *given: asked.append(given) or sae)
    gemma = manifest_with(id="google/gemma-3-270m (Q4_K_M, dequantised)", kind="embedded")
    spec = "gemma-scope-2-270m-pt-res-all/layer_{layer}_width_16k_l0_small"
    assert open_sae(spec, 5, gemma).name == spec.replace("{layer}", "5")
    assert asked == [("gemma-scope-2-270m-pt-res-all", "layer_5_width_16k_l0_small")]


def test_without_saelens_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    monkeypatch.delitem(sys.modules, "wif_store.sae.library")
    monkeypatch.delattr(wif_store.sae, "library")
    save = tmp_path / "sae"
    save.mkdir()
    for file in ("cfg.json", "sae_weights.safetensors"):
        (save / file).write_text("{}")
    refused(r"pip install 'wif-store\[sae\]'", save)
    refused(r"pip install 'wif-store\[sae\]'", "a/b")


def test_what_reads_and_scores_imports_neither_torch_nor_saelens():
    code = (
        "import sys, wif_store, wif_store.scorer.run, wif_store.cli.app, wif_store.cli.sae\n"
        "import wif_store.sae.opening, wif_store.sae.training\n"
        "print([name for name in ('torch', 'sae_lens', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
