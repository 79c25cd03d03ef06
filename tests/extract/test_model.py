"""Finding a model's parts, and refusing a model that does not have them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support import tiny
from wif_store.errors import LayersError, ModelError
from wif_store.extract.checkpoint import locate
from wif_store.extract.engine import open_engine
from wif_store.extract.layers import find_layers
from wif_store.extract.model import load
from wif_store.extract.trials import as_decoder
from wif_store.tasks.base import Protocol, Request

PROTOCOL = Protocol("aligned", context="{x}", continuation=" {choice}")
REQUEST = Request("x", (("the cat was", " too small"), ("the cat was", " red")), None)


class Nested(nn.Module):
    """Layers with experts inside, beside a list of another length."""

    def __init__(self, layers: int, experts: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.layers = nn.ModuleList(
            nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(2, 2) for _ in range(experts))})
            for _ in range(layers)
        )


def test_experts_are_not_layers():
    model = Nested(layers=4, experts=4)
    assert find_layers(model, 4) is model.layers


def test_what_was_looked_for_is_said():
    with pytest.raises(
        ModelError, match=r"layers of Nested cannot be found.*length 7, found 0.*heads \[3\]"
    ) as error:
        find_layers(Nested(4, 2), 7)
    assert "layers [4]" in str(error.value)


def test_a_vision_tower_as_deep_as_the_decoder_is_not_taken_for_it(tiny_models):
    folder = tiny_models("gemma3-vision")
    engine = open_engine(str(folder), PROTOCOL, sequence_layers="all", dtype="float32", device="cpu")
    causal_lm = engine.extract.model.causal_lm
    lists = [m for m in causal_lm.modules() if isinstance(m, nn.ModuleList) and len(m) == 4]
    assert len(lists) == 2
    assert engine.extract.model.layers is causal_lm.get_decoder().layers
    [record] = engine.extract([REQUEST])
    want = tiny.hooked_residuals(tiny.plain_model(folder, torch.float32), record.token_ids)
    torch.testing.assert_close(torch.from_numpy(record.sequence), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("architecture", "scale"), [("cohere", 0.0625), ("granite", 1 / 8), ("llama", 1.0)])
def test_the_factor_of_the_logits_is_applied(architecture, scale, tiny_models):
    folder = tiny_models(architecture)
    engine = open_engine(str(folder), PROTOCOL, dtype="float32", device="cpu")
    assert engine.extract.model.head.scale == scale
    model, tokenizer = tiny.plain_model(folder, torch.float32), engine.extract.model.tokenizer
    [record] = engine.extract([REQUEST])
    want = [tiny.plain_logprob(model, tokenizer, *pair) for pair in REQUEST.pairs]
    assert record.logprobs == pytest.approx(want, abs=2e-4)


def test_logits_that_are_more_than_the_head_are_refused(tiny_models, monkeypatch):
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def scaled(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.logits = out.logits * 3
        return out

    monkeypatch.setattr(LlamaForCausalLM, "forward", scaled)
    with pytest.raises(ModelError, match="the logits of LlamaForCausalLM are not its output embedding"):
        load(locate(str(tiny_models("llama"))), device="cpu", dtype="float32")


def test_a_model_that_sees_what_comes_later_is_refused(tiny_models, monkeypatch):
    model = load(locate(str(tiny_models("llama"))), device="cpu", dtype="float32")
    module, config = model.decoder.module, model.causal_lm.config
    forward = type(module).forward

    def looking_ahead(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.last_hidden_state = out.last_hidden_state + out.last_hidden_state.mean(1, keepdim=True)
        return out

    monkeypatch.setattr(type(module), "forward", looking_ahead)
    with pytest.raises(ModelError, match="depend on tokens that come later or on other rows"):
        as_decoder(module, config, model.layers[-1])


def test_bfloat16_is_the_checkpoints_rounding(tiny_models):
    model = load(locate(str(tiny_models("gemma2"))), device="cpu", dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert model.head.softcap == 30.0
    assert len(model.layers) == 4


def test_attention_is_soft_capped_whatever_transformers_would_choose(tiny_models, monkeypatch):
    from transformers import Gemma2ForCausalLM, Gemma2PreTrainedModel

    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)  # as some releases have it
    folder, ids = tiny_models("gemma2"), torch.arange(12)[None]
    chosen = Gemma2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert chosen.config._attn_implementation == "sdpa"
    found = load(locate(str(folder)), device="cpu", dtype="float32").causal_lm
    with torch.inference_mode():
        assert torch.equal(found(ids).logits, tiny.plain_model(folder, torch.float32)(ids).logits)


def test_a_release_that_does_not_name_its_attention_gets_masks(tiny_models, monkeypatch):
    from wif_store.extract import attention

    folder = str(tiny_models("llama"))
    named = open_engine(folder, PROTOCOL, dtype="float32", device="cpu")
    monkeypatch.setattr(attention, "attention_of", lambda config: attention.UNKNOWN)
    unnamed = open_engine(folder, PROTOCOL, dtype="float32", device="cpu")
    assert (named.extract.model.decoder.masked, unnamed.extract.model.decoder.masked) == (False, True)
    [one], [other] = named.extract([REQUEST]), unnamed.extract([REQUEST])
    assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_layers_are_named_by_the_one_grammar(tiny_models):
    folder = str(tiny_models("llama"))
    engine = open_engine(folder, PROTOCOL, layers="0,2-3", sequence_layers="none", device="cpu")
    assert (engine.layers, engine.sequence_layers) == ((0, 2, 3), ())
    with pytest.raises(LayersError, match="--sequence-layers"):
        open_engine(folder, PROTOCOL, sequence_layers="9", device="cpu")
    with pytest.raises(ModelError, match="no layer is to be read at the final token"):
        open_engine(folder, PROTOCOL, layers="none", device="cpu")
