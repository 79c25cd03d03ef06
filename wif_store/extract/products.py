"""Matrix products on a CPU that has none of the model's type: in float32, and rounded."""

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


def widen(model: Any) -> None:
    """Give a model the products that are quick on its device. Its type and its weights stay as they are."""
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.device.type == "cpu" and widened(module.weight.dtype):
            module.__class__ = Widened
