"""An adapter of PEFT gives what the merged checkpoint gives, and is part of what a store records."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from tests.support import tiny
from tests.support.command import build, run
from wif_store.errors import ModelError
from wif_store.extract.adapter import locate_adapter
from wif_store.extract.checkpoint import Located
from wif_store.extract.engine import open_engine
from wif_store.store.reader import open_store
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source

TASK = get_task("winogrande")
PROTOCOL = TASK.protocol("aligned")
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # PEFT's, of a test
TARGETS = {"gpt2": ["c_attn"], "llama": ["q_proj", "down_proj"], "gemma2": ["v_proj", "o_proj"]}


@pytest.fixture(scope="module")
def made(tiny_models, tmp_path_factory):
    """Of an architecture: the folder of an adapter, and of the checkpoint with the adapter merged into it."""

    def make(architecture):
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        folder = tmp_path_factory.mktemp(architecture)
        base = AutoModelForCausalLM.from_pretrained(tiny_models(architecture), dtype=torch.float32)
        transposed = {"fan_in_fan_out": True} if architecture == "gpt2" else {}
        settings = LoraConfig(r=4, target_modules=TARGETS[architecture], task_type="CAUSAL_LM", **transposed)
        model = get_peft_model(base, settings)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora" in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.2)
        model.save_pretrained(folder / "adapter")
        model.merge_and_unload().save_pretrained(folder / "merged")
        tiny.tokenizer(folder / "merged")
        return folder / "adapter", folder / "merged"

    return make


@pytest.mark.parametrize("architecture", TARGETS)
def test_an_adapter_gives_what_the_merged_checkpoint_gives(architecture, made, tiny_models, rows_file):
    adapter, merged = made(architecture)
    requests = [TASK.request(c, PROTOCOL) for c in load_source(TASK, str(rows_file)).candidates[:12]]

    def records(folder, **options):
        engine = open_engine(
            str(folder), PROTOCOL, sequence_layers="all", dtype="float32", device="cpu", **options
        )
        return engine.extract(requests)

    found = records(tiny_models(architecture), adapter=str(adapter))
    for one, want in zip(found, records(merged), strict=True):
        np.testing.assert_allclose(one.logprobs, want.logprobs, rtol=1e-5)
        gap = np.linalg.norm(one.sequence - want.sequence, axis=-1)
        assert (gap <= 1e-5 * np.linalg.norm(want.sequence, axis=-1)).all()
    without = records(tiny_models(architecture))
    assert any((a.logprobs != b.logprobs).any() for a, b in zip(found, without, strict=True))


def test_a_store_records_the_adapter_and_is_recomputed_with_it(made, tiny_models, rows_file, tmp_path):
    adapter, _ = made("llama")
    given = ("--per-class", "max", "--dtype", "float32")
    out = tmp_path / "s.zarr"
    assert build(tiny_models("llama"), rows_file, out, *given, "--adapter", adapter).returncode == 0
    recorded = open_store(out).manifest.model["adapter"]
    assert (recorded["id"], recorded["kind"]) == ("adapter", "local")
    assert "already built" in build(tiny_models("llama"), rows_file, out, *given, "--adapter", adapter).stderr
    other = build(tiny_models("llama"), rows_file, out, *given)
    assert "holds a finished store with another model.adapter" in other.stderr
    again = ("--recompute", 2, "--model", tiny_models("llama"), "--source", rows_file)
    assert run("verify", out, *again, "--adapter", adapter).returncode == 0
    assert "name its folder with --adapter" in run("verify", out, *again).stderr
    changed = shutil.copytree(adapter, tmp_path / "changed")
    settings = json.loads((changed / "adapter_config.json").read_text())
    (changed / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 1}))
    assert "give that one" in run("verify", out, *again, "--adapter", changed).stderr


def test_an_adapter_for_a_store_without_one_is_refused(made, tiny_models, finished_store):
    done = run(
        "verify", finished_store, "--recompute", 1, "--model", tiny_models("llama"), "--adapter", "x/y"
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_an_adapter_of_another_model_is_refused(made, tiny_models):
    adapter, _ = made("gpt2")
    with pytest.raises(ModelError, match=r"adapter adapter cannot be merged into model .*Target modules"):
        open_engine(str(tiny_models("llama")), PROTOCOL, device="cpu", adapter=str(adapter))


def test_an_adapter_that_names_another_repository_is_refused(made):
    from wif_store.extract.adapter import merged

    adapter, _ = made("llama")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    named = settings | {"base_model_name_or_path": "some/base"}
    (adapter / "adapter_config.json").write_text(json.dumps(named))
    with pytest.raises(
        ModelError, match="was trained on some/base, not on other/base: give --model some/base"
    ):
        merged(None, Located("other/base", "x", "0" * 40, "hub"), locate_adapter(str(adapter)))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("adapter_config.json", "lacks adapter_config.json"),
        ("adapter_model.safetensors", "lacks its weights"),
        (None, "no folder"),
    ],
)
def test_what_is_no_adapter_is_refused(name, says, made, tmp_path):
    folder = tmp_path / "a"
    if name:
        shutil.copytree(made("llama")[0], folder)
        (folder / name).unlink()
    with pytest.raises(ModelError, match=says):
        locate_adapter(str(folder))


def test_weights_that_the_file_lacks_are_refused(made, tiny_models, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(made("llama")[0], tmp_path / "a")
    weights = load_file(folder / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"cannot be merged .*missing adapter keys"):
        open_engine(str(tiny_models("llama")), PROTOCOL, device="cpu", adapter=str(folder))


def test_weights_that_have_no_place_are_refused(made, tiny_models, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(made("llama")[0], tmp_path / "a")
    weights = load_file(folder / "adapter_model.safetensors")
    one = next(iter(weights))
    weights[one.replace("layers.0", "layers.9")] = weights[one].clone()
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"holds .*layers\.9.* that the model or adapter_config.json has no"):
        open_engine(str(tiny_models("llama")), PROTOCOL, device="cpu", adapter=str(folder))
