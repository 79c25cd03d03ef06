"""The last layer runs at the tokens that are read of it, and gives there what it gives when run whole."""

from __future__ import annotations

import pytest
import torch

from tests.support import tiny
from wif_store.extract.checkpoint import locate
from wif_store.extract.engine import open_engine
from wif_store.extract.model import load
from wif_store.extract.trees import grow, pad
from wif_store.extract.trials import TRIAL, as_decoder
from wif_store.tasks.base import Protocol, Request


@pytest.fixture
def model(tiny_models):
    def loaded(architecture="gemma2"):
        return load(locate(str(tiny_models(architecture))), device="cpu", dtype="float32")

    return loaded


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@torch.inference_mode()
def test_what_is_read_is_the_same(architecture, model):
    decoder = model(architecture).decoder
    assert len(decoder.tokenwise) == (1 if architecture == "gpt2" else 3)
    rows = pad([grow(TRIAL), grow(TRIAL[:1])], torch.device("cpu"))
    read = rows.nodes[[2, 9, -1]]
    whole, part = (decoder.states(rows, positions).flatten(0, 1) for positions in (None, read))
    torch.testing.assert_close(part[read], whole[read])
    assert not torch.allclose(part[rows.nodes], whole[rows.nodes])


@pytest.mark.parametrize(("layers", "whole"), [("1", False), ("1,3", True)])
def test_no_more_of_it_runs_than_is_read(layers, whole, tiny_models):
    protocol = Protocol("aligned", context="{x}", continuation="{choice}")
    engine = open_engine(
        str(tiny_models("gemma2")), protocol, sequence_layers=layers, dtype="float32", device="cpu"
    )
    seen = []
    engine.extract.model.layers[-1].mlp.register_forward_hook(
        lambda mlp, inputs, output: seen.append(inputs[0].shape[:2].numel())
    )
    request = Request("x", (("the cat", " was"), ("the cat", " was too small")), None)
    context = len(engine.extract.encoder([request])[0].contexts[0])
    [record] = engine.extract([request])
    # A context's last token is the first that predicts a choice.
    assert seen == [record.cost if whole else record.cost - (context - 1)]


def test_a_layer_that_looks_beyond_a_token_runs_whole(model, monkeypatch):
    loaded = model()
    mlp = type(loaded.layers[-1].mlp)
    forward = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda self, x: forward(self, x) + x.cumsum(1))
    config = loaded.causal_lm.config
    assert as_decoder(loaded.decoder.module, config, loaded.layers[-1]).tokenwise == ()


def test_a_layer_with_other_names_runs_whole(model):
    loaded = model()
    assert as_decoder(loaded.decoder.module, loaded.causal_lm.config, torch.nn.Identity()).tokenwise == ()
