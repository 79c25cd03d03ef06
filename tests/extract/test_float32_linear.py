"""Where a CPU has no products of a type, they are float32's, rounded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wif_store.extract import float32_linear
from wif_store.extract.checkpoint import locate
from wif_store.extract.engine import open_engine
from wif_store.extract.float32_linear import Float32Linear, needs_float32
from wif_store.extract.model import load
from wif_store.tasks.base import Protocol, Request


@pytest.fixture(params=[True, False], ids=["native", "float32"])
def native(request, monkeypatch):
    def needed(dtype):
        return not request.param and dtype != torch.float32

    for module in ("float32_linear", "model", "lm_head"):
        monkeypatch.setattr(f"wif_store.extract.{module}.needs_float32", needed)
    return request.param


@pytest.mark.parametrize(
    ("machine", "has", "dtype", "needed"),
    [
        ("x86_64", {"avx2"}, torch.bfloat16, True),
        ("x86_64", {"avx2", "avx512_f"}, torch.bfloat16, True),
        ("x86_64", {"avx512_bf16"}, torch.bfloat16, False),
        ("AMD64", {"amx_bf16"}, torch.bfloat16, False),
        ("x86_64", {"avx512_bf16"}, torch.float16, True),
        ("x86_64", {"avx512_fp16"}, torch.float16, False),
        ("aarch64", {"neon"}, torch.bfloat16, True),
        ("arm64", {"neon", "bf16"}, torch.bfloat16, False),
        ("aarch64", {"fp16_arith"}, torch.float16, False),
        ("ppc64le", set(), torch.bfloat16, False),
        ("x86_64", set(), torch.float32, False),
    ],
)
def test_a_cpu_is_asked_for_its_instructions(machine, has, dtype, needed, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(has, True), raising=False)
    assert needs_float32.__wrapped__(dtype) is needed


@pytest.mark.parametrize(("vectors", "needed"), [("AVX2", True), ("DEFAULT", True), ("AVX512", False)])
def test_an_older_torch_says_how_wide_vectors_are(vectors, needed, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    assert needs_float32.__wrapped__(torch.bfloat16) is needed


@torch.inference_mode()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_product_is_the_exact_one_rounded(dtype, bias, monkeypatch):
    monkeypatch.setattr(float32_linear, "PIECE_BYTES", 4 * 96 * 7)
    torch.manual_seed(0)
    layer = Float32Linear(96, 30, bias=bias, dtype=dtype)
    states = torch.randn(2, 5, 96).to(dtype)
    exact = states.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
    found = layer(states)
    assert found.dtype == dtype
    half = torch.finfo(dtype).eps / 2
    assert bool(((found.double() - exact).abs() <= 1.01 * half * exact.abs() + 1e-6).all())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_model_keeps_its_type_and_weights(dtype, native, tiny_models):
    model = load(locate(str(tiny_models("gemma2"))), device="cpu", dtype=dtype).causal_lm
    changed = [m for m in model.modules() if isinstance(m, Float32Linear)]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(changed) == (0 if native or dtype == "float32" else len(linear))
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{dtype}"}
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_record_says_which_products_it_is_of(native, tiny_models):
    protocol = Protocol("aligned", context="{x}", continuation="{choice}")
    request = Request("x", (("the cat", " was"), ("the cat", " sat")), None)
    exact, found = (
        open_engine(str(tiny_models("gemma2")), protocol, dtype=dtype, device="cpu")
        for dtype in ("float32", "bfloat16")
    )
    assert exact.model["device"] == "cpu"
    assert found.model["device"] == ("cpu" if native else "cpu, products in float32")
    [expected], [got] = exact.extract([request]), found.extract([request])
    assert got.logprobs == pytest.approx(expected.logprobs, abs=0.1)
