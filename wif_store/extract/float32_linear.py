"""Matrix products on a CPU: of weights laid out once, or in float32 where it has none of the model's type."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PIECE_BYTES: Final = 2**22
"""How many bytes of a weight are float32 at once: little enough for a CPU's cache."""

PACKED_FOR: Final = 1024
"""Of how many rows a product with packed weights is expected to be."""

TRIED_WITH: Final = 128
"""Of how many rows a product with packed weights is held against a plain one: of few, releases agree."""

KINDS: Final = {torch.bfloat16: "bf16", torch.float16: "fp16"}
"""What oneDNN calls the types that not every CPU multiplies."""


@cache
def widened(dtype: torch.dtype) -> bool:
    """Whether this CPU makes products of a type in float32, for want of quick ones of its own.

    A CPU without bfloat16 instructions has bfloat16 products, but about ten times as slow as float32's.
    """
    if dtype not in KINDS:
        return False
    supported = f"_is_mkldnn_{KINDS[dtype]}_supported"
    return not (torch.backends.mkldnn.is_available() and getattr(torch.ops.mkldnn, supported)())


def rows_of(linear: nn.Linear) -> int:
    """Outputs of one of its pieces."""
    return min(linear.out_features, max(1, PIECE_BYTES // (4 * linear.in_features)))


@cache
def _room(rows: int, columns: int) -> torch.Tensor:
    """The same memory each time, for fresh pages cost as much as widening."""
    return torch.empty(rows, columns)


def pieces(linear: nn.Linear) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor | None]]:
    """A linear layer piece by piece: which of its outputs, their weights and their biases, in float32.

    The weights are good until the next piece.
    """
    rows = rows_of(linear)
    for start in range(0, linear.out_features, rows):
        piece = slice(start, start + rows)
        weight = linear.weight[piece]
        if weight.dtype != torch.float32:
            weight = _room(rows, linear.in_features)[: len(weight)].copy_(weight)
        yield piece, weight, None if linear.bias is None else linear.bias[piece].float()


class Widened(nn.Linear):
    """A linear layer whose product is made in float32 and rounded once; for inference, in one thread."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` -> ``[..., out_features]``, of the same type."""
        wide = input.float()
        out = input.new_empty(*input.shape[:-1], self.out_features)
        for piece, weight, bias in pieces(self):
            out[..., piece] = functional.linear(wide, weight, bias)
        return out


class Packed(nn.Linear):
    """A linear layer whose weights lie as oneDNN multiplies them: a plain one lays them out each time."""

    packed: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """Laid out as everybody else expects them, for a module that multiplies by them itself."""
        return self.packed.to_dense()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` -> ``[..., out_features]``, of the same type."""
        return _packed_product(input, self.packed, self.bias)


def _packed_product(states: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")  # type: ignore[no-any-return]


def _pack(linear: nn.Linear) -> torch.Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(linear.weight, PACKED_FOR)  # type: ignore[no-any-return]


def _same(linear: nn.Linear) -> bool:
    """Whether torch packs a layer's weights, and their product is then the plain one bit for bit.

    The two functions are torch's own, and may go or change; those of torch 2.10 round otherwise.
    """
    states = torch.arange(TRIED_WITH * linear.in_features).sin().view(TRIED_WITH, -1).to(linear.weight.dtype)
    try:
        found = _packed_product(states, _pack(linear), linear.bias)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.equal(found, linear(states))


def widen(model: Any) -> None:
    """Have a model's products made in float32 where its device is a CPU that has none of its type."""
    for linear in _linear_on_cpu(model):
        if widened(linear.weight.dtype):
            linear.__class__ = Widened


@torch.no_grad()
def pack(model: Any, head: nn.Module) -> None:
    """Pack a model's weights where that saves a CPU work; not those of its head, which others read too."""
    same: dict[tuple[torch.Size, bool], bool] = {}
    for linear in _linear_on_cpu(model):
        if linear is head or linear.weight.dtype not in KINDS or widened(linear.weight.dtype):
            continue
        kind = linear.weight.shape, linear.bias is None
        if kind not in same:
            same[kind] = _same(linear)
        if same[kind]:
            packed = _pack(linear)
            del linear.weight
            linear.__class__, linear.packed = Packed, packed


def _linear_on_cpu(model: Any) -> Iterator[nn.Linear]:
    return (m for m in model.modules() if type(m) is nn.Linear and m.weight.device.type == "cpu")
