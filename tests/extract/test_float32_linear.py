"""Products of packed weights are the plain ones; where a CPU has none of a type, float32's, rounded."""

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
    def widened(dtype):
        return not request.param and dtype != torch.float32

    for module in ("products", "model", "head"):
        monkeypatch.setattr(f"wif_store.extract.{module}.widened", widened)
    return request.param


@torch.inference_mode()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_product_is_the_exact_one_rounded(dtype, bias, monkeypatch):
    monkeypatch.setattr(products, "PIECE_BYTES", 4 * 96 * 7)
    torch.manual_seed(0)
    layer = products.Widened(96, 30, bias=bias, dtype=dtype)
    states = torch.randn(2, 5, 96).to(dtype)
    exact = states.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    found = layer(states)
    assert found.dtype == dtype
    half = torch.finfo(dtype).eps / 2
    assert bool(((found.double() - exact).abs() <= 1.01 * half * exact.abs() + 1e-6).all())


@torch.inference_mode()
@pytest.mark.skipif(products.widened(torch.bfloat16), reason="this CPU has no bfloat16 products to pack for")
@pytest.mark.parametrize("rows", [1, 7, 300, 1024])
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_product_is_the_plain_one_bit_for_bit(bias, rows):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(640, 256, bias=bias, dtype=torch.bfloat16))
    states = torch.randn(1, rows, 640, dtype=torch.bfloat16)
    plain, weight = model(states), model[0].weight
    products.pack(model, nn.Identity())
    assert type(model[0]) is products.Packed
    assert torch.equal(model(states), plain)
    assert torch.equal(model[0].weight, weight)


@torch.inference_mode()
@pytest.mark.parametrize("answer", [AttributeError("gone"), RuntimeError("not of this type"), "another"])
def test_layers_stay_plain_where_torch_packs_no_more(answer, monkeypatch):
    def product(states, weight, bias):
        if isinstance(answer, Exception):
            raise answer
        return states.new_ones(len(states), 30)

    monkeypatch.setattr(products, "widened", lambda dtype: False)
    monkeypatch.setattr(products, "_packed_product", product)
    model = nn.Sequential(nn.Linear(96, 30, dtype=torch.bfloat16))
    weight = model[0].weight
    products.pack(model, nn.Identity())
    assert type(model[0]) is nn.Linear
    assert model[0].weight is weight


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_model_keeps_its_type_and_weights(dtype, native, tiny_models):
    model = load(locate(str(tiny_models("gemma2"))), device="cpu", dtype=dtype).causal_lm
    widened = [m for m in model.modules() if isinstance(m, products.Widened)]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    packed = [m for m in model.modules() if isinstance(m, products.Packed)]
    assert len(widened) == (0 if native or dtype == "float32" else len(linear))
    assert len(packed) == (len(linear) - 1 if native and dtype != "float32" else 0)
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
