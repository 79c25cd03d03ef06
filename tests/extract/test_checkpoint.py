"""Models are found where they are; what is not a complete model is refused before anything is run on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support import tiny
from wif_store.errors import ModelError
from wif_store.extract.checkpoint import cache_folder, locate, read_config
from wif_store.extract.dry_run import preview
from wif_store.extract.model import load

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tiny_models, tmp_path):
    return Path(shutil.copytree(tiny_models("llama"), tmp_path / "m"))


def loaded(folder):
    return load(locate(str(folder)), device="cpu", dtype="float32")


def set_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# Weights that do not fill the model


def test_a_checkpoint_whose_keys_have_a_prefix_is_refused(folder):
    tiny.change_weights(folder, lambda weights: {f"_orig_mod.{key}": w for key, w in weights.items()})
    with pytest.raises(ModelError, match=r"lacks lm_head.weight.*holds others, such as _orig_mod\."):
        loaded(folder)


def test_a_checkpoint_without_one_layer_is_refused(folder):
    tiny.change_weights(folder, lambda ws: {key: w for key, w in ws.items() if ".layers.2." not in key})
    with pytest.raises(ModelError, match=r"lacks model\.layers\.2\..* and 7 more of LlamaForCausalLM"):
        loaded(folder)


def test_a_checkpoint_without_a_head_is_refused_unless_it_is_tied(folder, tiny_models):
    tiny.change_weights(folder, lambda ws: {key: w for key, w in ws.items() if key != "lm_head.weight"})
    with pytest.raises(ModelError, match=r"lacks lm_head\.weight of LlamaForCausalLM"):
        loaded(folder)
    assert loaded(tiny_models("gemma2")).head.vocabulary == 512


def test_a_checkpoint_with_more_layers_than_its_configuration_is_refused(folder):
    set_config(folder, num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"holds model\.layers\.3\..*of this config.json does not have"):
        loaded(folder)


def test_weights_of_other_shapes_are_refused(folder):
    set_config(folder, intermediate_size=32)
    with pytest.raises(ModelError, match="model m"):
        loaded(folder)


def test_weights_that_a_text_model_has_no_use_for_are_no_fault(folder):
    extra = {"vision_tower.layers.0.weight": torch.zeros(3), "model.mtp.weight": torch.zeros(3)}
    tiny.change_weights(folder, lambda weights: weights | extra)
    assert len(loaded(folder).layers) == 4


def test_nothing_is_printed_of_weights_that_are_refused(folder, capfd):
    tiny.change_weights(folder, lambda ws: {key: w for key, w in ws.items() if ".layers.2." not in key})
    with pytest.raises(ModelError):
        loaded(folder)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["T5Config", "BartConfig"])
def test_an_encoder_decoder_is_refused(kind, tmp_path):
    import transformers

    getattr(transformers, kind)().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    tiny.tokenizer(tmp_path)
    for act in (
        lambda: read_config(locate(str(tmp_path)), trust_remote_code=False),
        lambda: preview(str(tmp_path)),
    ):
        with pytest.raises(ModelError, match="is an encoder-decoder"):
            act()
    with pytest.raises(ModelError, match="is an encoder-decoder"):
        loaded(tmp_path)


# Files beside the model


def test_an_adapter_beside_full_weights_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").touch()
    with pytest.raises(
        ModelError,
        match=r"adapter beside full weights \(adapter_config.json, adapter_model.safetensors\).*--adapter",
    ):
        locate(str(folder))


def test_an_adapter_without_its_model_is_refused(folder):
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").touch()
    for weights in (True, False):
        with pytest.raises(
            ModelError, match=r"is an adapter without the model it belongs to.*give it as --adapter"
        ):
            locate(str(folder), weights=weights)


def test_files_that_are_not_used_do_not_change_the_revision(folder):
    before = locate(str(folder)).revision
    assert before.startswith("sha256:")
    for unused in ("pytorch_model.bin", "optimizer.bin", "consolidated.safetensors", "README.md"):
        (folder / unused).write_text("x")
    assert locate(str(folder)).revision == before
    (folder / "chat_template.jinja").write_text("x")
    assert locate(str(folder)).revision != before


def test_a_folder_that_is_no_model_is_refused(tmp_path, folder):
    with pytest.raises(ModelError, match="no folder"):
        locate(str(tmp_path / "none"))
    (tmp_path / "x.gguf").touch()
    with pytest.raises(ModelError, match=r"holds no config.json; .* or one file: x.gguf"):
        locate(str(tmp_path))
    (folder / "sub").mkdir()
    (folder / "model.safetensors").rename(folder / "sub" / "model.safetensors")
    with pytest.raises(ModelError, match=r"holds no weights.*there are some below sub"):
        locate(str(folder))


# The Hub and its cache; tests/conftest.py points the client to a port where nothing listens


@pytest.fixture
def cache(tmp_path, monkeypatch, tiny_models):
    """A Hub cache that holds me/tiny at a commit which main names; the client cannot reach a Hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--me--tiny"
    shutil.copytree(tiny_models("llama"), repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return repo


@pytest.mark.parametrize("spec", ["me/tiny", "me/tiny@main", f"me/tiny@{COMMIT}"])
def test_a_cached_model_is_found_without_a_network(spec, cache):
    found = locate(spec)
    assert (found.name, found.revision, found.kind) == ("me/tiny", COMMIT, "hub")
    assert len(loaded(found.path).layers) == 4
    assert preview(spec, layers="0").layers == (0,)


def test_a_cached_model_is_found_offline(cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("me/tiny").revision == COMMIT
    with pytest.raises(ModelError, match="model me/other is not cached and HF_HUB_OFFLINE is set"):
        locate("me/other")


def test_the_hub_is_not_asked_about_a_commit_that_is_cached(cache, monkeypatch):
    from huggingface_hub import HfApi

    monkeypatch.setattr(HfApi, "model_info", lambda *args, **kwargs: pytest.fail("asked"))
    assert locate(f"me/tiny@{COMMIT}").revision == COMMIT


@pytest.mark.hub
def test_what_was_fetched_once_is_found_when_the_network_is_gone(hub, tiny_models):
    hub.seed("me/tiny", "model", {path.name: path for path in tiny_models("llama").iterdir()})
    commit = hub.repo("me/tiny", "model").commit_at("main").sha
    code = "from wif_store.extract.checkpoint import locate; print(locate('me/tiny').revision)"
    for gone in ({}, {"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}):
        env = hub.environ(PYTHONPATH=str(Path(__file__).parents[2]), **gone)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
        assert done.stdout.strip() == commit, done.stderr


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json"])
def test_a_model_that_is_cached_in_part_is_not_taken_for_complete(lost, cache):
    (cache / "snapshots" / COMMIT / lost).unlink()
    with pytest.raises(ModelError, match="model me/tiny cannot be fetched: no connection to the Hub"):
        locate("me/tiny")


def test_a_cached_model_lacks_no_piece_of_its_weights(cache):
    snapshot = cache / "snapshots" / COMMIT
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    (snapshot / "model.safetensors").rename(snapshot / names[0])
    index = {"metadata": {}, "weight_map": {"a": names[0], "b": names[1]}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="no connection to the Hub"):
        locate("me/tiny")
    shutil.copy(snapshot / names[0], snapshot / names[1])
    assert locate("me/tiny").revision == COMMIT


class FakeHub:
    """What the client would say of a repository of these files."""

    def __init__(self, monkeypatch, folder, *names):
        import huggingface_hub

        self.asked: list[str] = []
        sibling = type("Sibling", (), {})

        class Info:
            sha = COMMIT
            siblings = tuple(sibling() for _ in names)

        for one, name in zip(Info.siblings, names, strict=True):
            one.rfilename = name

        def download(repo, *, revision, allow_patterns=None, local_files_only=False):
            self.asked = allow_patterns
            return str(folder / COMMIT)

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: Info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


def test_weights_at_the_top_are_taken_whatever_lies_below(monkeypatch, tmp_path):
    hub = FakeHub(
        monkeypatch, tmp_path, "config.json", "tokenizer.json", "pytorch_model.bin", "onnx/model.safetensors"
    )
    assert locate("me/old").revision == COMMIT
    assert hub.asked == ["config.json", "pytorch_model.bin", "tokenizer.json"]


def test_of_two_kinds_of_weights_one_is_fetched(monkeypatch, tmp_path):
    hub = FakeHub(
        monkeypatch,
        tmp_path,
        "config.json",
        "model.safetensors",
        "consolidated.safetensors",
        "pytorch_model.bin",
        "code/modeling.py",
        "big.msgpack",
    )
    locate("me/both")
    assert hub.asked == ["code/modeling.py", "config.json", "model.safetensors"]
    locate("me/both", weights=False)
    assert hub.asked == ["code/modeling.py", "config.json"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("config.json", "sub/model.safetensors"), "model me/x holds no weights.*some below sub"),
        (("adapter_config.json", "adapter_model.safetensors"), "model me/x is an adapter"),
        (("model.Q4.gguf",), "model me/x holds no config.json.*model.Q4.gguf"),
    ],
)
def test_a_repository_that_is_no_complete_model_is_refused_before_it_is_fetched(
    names, message, monkeypatch, tmp_path
):
    hub = FakeHub(monkeypatch, tmp_path, *names)
    with pytest.raises(ModelError, match=message):
        locate("me/x")
    assert hub.asked == []


def test_converted_checkpoints_are_kept_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("WIF_STORE_CACHE", raising=False)
    assert cache_folder().name == "wif-store"
    monkeypatch.setenv("WIF_STORE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
