"""Log-probabilities are those of float32, whatever the model computes in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from wif_store.extract import float32_linear
from wif_store.extract import lm_head as module
from wif_store.extract.lm_head import Head, largest


def made(dtype, vocabulary, *, bias=False, d_model=64, softcap=None, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(d_model, vocabulary, bias=bias)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    states = torch.randn(50, d_model, generator=generator) * 3
    return Head(linear.to(dtype), softcap, scale), states.to(dtype)


def exact(head, states, row, token):
    logits = states.double() @ head.module.weight.double().T
    if head.module.bias is not None:
        logits += head.module.bias.double()
    logits *= head.scale
    if head.softcap:
        logits = torch.tanh(logits / head.softcap) * head.softcap
    return logits.log_softmax(-1)[torch.from_numpy(row), torch.from_numpy(token)].numpy()


@torch.inference_mode()
@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize(("softcap", "scale"), [(None, 1.0), (30.0, 1.0), (None, 0.5)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("vocabulary", [517, 128 * 64])
@pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.float32, 5e-5), (torch.float16, 1e-3), (torch.bfloat16, 5e-3)]
)
def test_as_in_double_precision(dtype, allowed, vocabulary, bias, softcap, scale, in_pieces, monkeypatch):
    monkeypatch.setattr(module, "needs_float32", lambda dtype: in_pieces)
    monkeypatch.setattr(float32_linear, "PIECE_BYTES", 4 * 64 * 100)
    monkeypatch.setattr(module, "PIECE_BYTES", 7 * 4 * vocabulary)
    head, states = made(dtype, vocabulary, bias=bias, softcap=softcap, scale=scale)
    rng = np.random.default_rng(0)
    row, token = rng.integers(0, 50, 200), rng.integers(0, vocabulary, 200)
    want = exact(head, states, row, token)
    found = head.log_probs(states, row, token).numpy()
    assert np.abs(found - want).max() < allowed
    if dtype == torch.bfloat16:
        plain = head.logits(states).float().log_softmax(-1).numpy()[row, token]
        assert np.abs(plain - want).max() > 5 * allowed, "the model's own logits would have done"


@pytest.mark.parametrize("size", [100, 128 * 40, 128 * 31])
def test_the_largest(size):
    values = torch.randn(9, size, generator=torch.Generator().manual_seed(0)).bfloat16()
    places = largest(values, 32)
    assert places.shape == (9, 32)
    assert all(len(set(row)) == 32 for row in places.tolist())
    assert torch.equal(
        values.gather(1, places).sort(-1).values, values.topk(32, dim=-1).values.sort(-1).values
    )
