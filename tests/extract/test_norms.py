"""Norms in fewer steps: Gemma's own values, and nobody else's norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.support import tiny
from wif_store.extract.checkpoint import locate
from wif_store.extract.model import load
from wif_store.extract.norms import ShortNorm, shorten


def gemma_norm(dtype):
    torch.manual_seed(0)
    norm = Gemma2RMSNorm(96, eps=1e-6).to(dtype)
    nn.init.normal_(norm.weight)
    return norm


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_values_are_transformers_own_bit_for_bit(dtype):
    model = nn.ModuleList([gemma_norm(dtype)])
    states = 30 * torch.randn(3, 4, 5, 96, dtype=dtype)
    given = states.clone()
    plain = [model[0](x) for x in (states, states.transpose(1, 2))]
    shorten(model)
    assert type(model[0]) is ShortNorm
    for x, expected in zip((states, states.transpose(1, 2)), plain, strict=True):
        assert torch.equal(model[0](x), expected)
    assert torch.equal(states, given)


@torch.inference_mode()
def test_a_gpu_s_own_norm_is_the_same_within_rounding():
    norm = gemma_norm(torch.float32)
    states = 30 * torch.randn(4, 96)
    expected = norm(states)
    shorten(nn.ModuleList([norm]))
    fused = nn.functional.rms_norm(states, norm.scale.shape, norm.scale, norm.eps)
    torch.testing.assert_close(fused, expected, rtol=1e-6, atol=1e-6)


class OtherRMSNorm(Gemma2RMSNorm):
    """Cubes what it should square."""

    def _norm(self, x):
        return x * torch.rsqrt(x.abs().pow(3).mean(-1, keepdim=True) + self.eps)


class BareRMSNorm(nn.Module):
    """Has nothing to look at."""


class GatedRMSNorm(Gemma2RMSNorm):
    """Takes one thing more."""

    def forward(self, x, gate=None):
        return super().forward(x) if gate is None else super().forward(x) * gate


@pytest.mark.parametrize("norm", [LlamaRMSNorm(96), OtherRMSNorm(96), GatedRMSNorm(96), BareRMSNorm()])
def test_another_kind_stays_as_it_is(norm):
    kind = type(norm)
    shorten(nn.ModuleList([norm]))
    assert type(norm) is kind


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
def test_a_loaded_model_has_short_norms_and_its_own_states(architecture, tiny_models):
    folder = tiny_models(architecture)
    model = load(locate(str(folder)), device="cpu", dtype="float32").causal_lm
    names = [name for name, m in model.named_modules() if name.endswith("norm")]
    assert names
    assert all(isinstance(model.get_submodule(name), ShortNorm) for name in names)
    ids = torch.arange(12).view(2, 6)
    with torch.inference_mode():
        expected = tiny.plain_model(folder, torch.float32)(ids).logits
        assert torch.equal(model(ids).logits, expected)
