"""A model that is spread over devices gives the bytes of one that is not."""

from __future__ import annotations

import json

import pytest

from tests.support.command import build
from wif_store.errors import ModelError
from wif_store.extract.engine import open_engine
from wif_store.tasks import get_task

PROTOCOL = get_task("winogrande").protocol("aligned")
MAP = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "cpu",
    "model.layers.3": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}


def written(folder, content):
    path = folder / "map.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_store_has_the_same_bytes(architecture, tiny_models, rows_file, tmp_path):
    given = ("--per-class", "max", "--dtype", "float32", "--sequence-layers", "all")
    stores = [tmp_path / "whole.zarr", tmp_path / "mapped.zarr", tmp_path / "auto.zarr"]
    maps = ((), ("--device-map", written(tmp_path, MAP)), ("--device-map", "auto"))
    for out, mapped in zip(stores, maps, strict=True):
        done = build(tiny_models(architecture), rows_file, out, *given, *mapped)
        assert done.returncode == 0, done.stderr
        assert "meta device" not in done.stderr
    files = [{p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} for out in stores]
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            MAP | {"model.layers": "cpu"},
            "puts model.layers.0.self_attn.q_proj.weight twice, as model.layers.0",
        ),
        (
            {k: v for k, v in MAP.items() if k != "model.layers.2"},
            "weight on no device; expected each module",
        ),
        (MAP | {"model.tower": "cpu"}, "names model.tower, which is no module of the model"),
        (json.dumps(MAP)[:-1] + ', "lm_head": "cpu"}', r"cannot be read \(it names lm_head twice\)"),
        ("[]", "is no map"),
        (MAP | {"model.embed_tokens": "disk"}, "or its embeddings"),
        ("[" * 100_000, "cannot be read"),
        (MAP | {"lm_head": "disk"}, "moves the head of the model in and out of memory"),
        (MAP | {"model.norm": "abacus"}, "model llama cannot be loaded"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(content, says, tiny_models, tmp_path):
    path = written(tmp_path, content)
    with pytest.raises(ModelError, match=says) as refused:
        open_engine(str(tiny_models("llama")), PROTOCOL, dtype="float32", device_map=str(path))
    assert "\n" not in str(refused.value)


def test_a_map_that_is_not_there_is_refused(tiny_models):
    with pytest.raises(ModelError, match=r"--device-map none\.json cannot be read"):
        open_engine(str(tiny_models("llama")), PROTOCOL, device_map="none.json")
