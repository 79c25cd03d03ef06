"""Where a CPU has no products of the model's type, they are made in float32, and are better for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wif_store.extract import products
from wif_store.extract.engine import open_engine
from wif_store.extract.model import load, locate
from wif_store.tasks.base import Protocol, Request


@pytest.fixture(params=[True, False], ids=["native", "widened"])
def native(request, monkeypatch):
    def multiplies(device, dtype):
        return request.param or dtype == torch.float32

    for module in ("products", "model"):
        monkeypatch.setattr(f"wif_store.extract.{module}.multiplies", multiplies)
    return request.param


@torch.inference_mode()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_product_is_the_exact_one_rounded(dtype, bias, native, monkeypatch):
    monkeypatch.setattr(products, "PIECE_BYTES", 4 * 96 * 7)
    generator = torch.Generator().manual_seed(0)
    states, weight = (torch.randn(n, 96, generator=generator).to(dtype) for n in (20, 30))
    addend = torch.randn(30, generator=generator).to(dtype) if bias else None
    out = torch.empty(20, 30, dtype=dtype)
    products.multiply(states, weight, addend, out)
    exact = states.double() @ weight.double().T + (addend.double() if bias else 0)
    half = torch.finfo(dtype).eps / 2
    rounding = half * exact.abs() + 1e-4
    # A native sum is rounded before the bias is added, and once more after it.
    assert bool(
        ((out.double() - exact).abs() <= (4 if native else 1.01) * rounding + native * half * 30).all()
    )


@torch.inference_mode()
def test_a_layer_takes_any_shape(native):
    layer = nn.Linear(96, 30).bfloat16()
    states = torch.randn(2, 5, 96, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = layer(states)
    layer.__class__ = products.Widened
    assert layer(states).shape == (2, 5, 30)
    torch.testing.assert_close(layer(states), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_model_keeps_its_type_and_weights(dtype, native, tiny_models):
    model = load(locate(str(tiny_models("gemma2"))), device="cpu", dtype=dtype).causal_lm
    widened = [m for m in model.modules() if isinstance(m, products.Widened)]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(widened) == (0 if native or dtype == "float32" else len(linear))
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{dtype}"}
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_record_says_which_products_it_is_of(native, tiny_models):
    protocol = Protocol("aligned", context="{x}", continuation="{choice}")
    request = Request("x", (("the cat", " was"), ("the cat", " sat")), None)
    exact, found = (
        open_engine(str(tiny_models("gemma2")), protocol, dtype=dtype, device="cpu")
        for dtype in ("float32", "bfloat16")
    )
    assert "products in float32" not in exact.model["device"]
    assert ("products in float32" in found.model["device"]) is not native
    [expected], [got] = exact.extract([request]), found.extract([request])
    assert got.logprobs == pytest.approx(expected.logprobs, abs=0.1)
