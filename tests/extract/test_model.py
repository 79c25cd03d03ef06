"""Finding a model's parts, and refusing a model that does not have them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support import tiny
from wif_store.errors import ModelError
from wif_store.extract.engine import parse_layers
from wif_store.extract.model import find_blocks, load, locate


class Nested(nn.Module):
    """Blocks with experts inside, beside a list of another length."""

    def __init__(self, blocks: int, experts: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.layers = nn.ModuleList(
            nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(2, 2) for _ in range(experts))})
            for _ in range(blocks)
        )


def test_experts_are_not_blocks():
    model = Nested(blocks=4, experts=4)
    assert find_blocks(model, 4) is model.layers


def test_what_was_looked_for_is_said():
    with pytest.raises(
        ModelError, match=r"blocks of Nested cannot be found.*length 7, found 0.*heads \[3\]"
    ) as error:
        find_blocks(Nested(4, 2), 7)
    assert "layers [4]" in str(error.value)


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


def test_bfloat16_is_the_checkpoints_rounding(tiny_models):
    model = load(locate(str(tiny_models("gemma2"))), device="cpu", dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert model.head.softcap == 30.0
    assert len(model.blocks) == 4


def test_attention_is_soft_capped_whatever_transformers_would_choose(tiny_models, monkeypatch):
    from transformers import Gemma2ForCausalLM, Gemma2PreTrainedModel

    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)  # as some releases have it
    folder, ids = tiny_models("gemma2"), torch.arange(12)[None]
    chosen = Gemma2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert chosen.config._attn_implementation == "sdpa"
    found = load(locate(str(folder)), device="cpu", dtype="float32").causal_lm
    with torch.inference_mode():
        assert torch.equal(found(ids).logits, tiny.plain_model(folder, torch.float32)(ids).logits)


@pytest.mark.parametrize(
    ("text", "layers"), [("all", range(26)), ("none", ()), ("auto", (4, 9, 14, 19, 24)), ("5,1,5", (1, 5))]
)
def test_layers(text, layers):
    assert parse_layers(text, 26) == tuple(layers)
