"""Matrix products on a CPU that has none of the model's type: in float32, and rounded."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from typing import Any

PIECE_BYTES: Final = 2**22
"""How many bytes of a weight are float32 at once: little enough for a CPU's cache."""


@cache
def multiplies(device: str, dtype: torch.dtype) -> bool:
    """Whether a kind of device has quick products of a type.

    A CPU without bfloat16 instructions has them too, but about ten times as slow as those of float32.
    """
    if device != "cpu" or dtype == torch.float32:
        return True
    kind = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    return bool(
        torch.backends.mkldnn.is_available() and getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported")()
    )


def multiply(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    """``states @ weight.T + bias``, accumulated in float32 and rounded once.

    Args:
        states: ``[n, d]``.
        weight: ``[m, d]``.
        bias: ``[m]``.
        out: ``[n, m]``, of the same type as the others.
    """
    if multiplies(out.device.type, out.dtype):
        torch.mm(states, weight.T, out=out)
        if bias is not None:
            out += bias
        return
    wide = states.float()
    rows = max(1, PIECE_BYTES // (4 * weight.shape[1]))
    for start in range(0, len(weight), rows):
        piece = slice(start, start + rows)
        addend = None if bias is None else bias[piece].float()
        out[:, piece] = functional.linear(wide, weight[piece].float(), addend)


class Widened(nn.Linear):
    """A linear layer whose product is that of ``multiply``."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` -> ``[..., out_features]``, of the same type."""
        out = input.new_empty(*input.shape[:-1], self.out_features)
        multiply(input.flatten(0, -2), self.weight, self.bias, out.view(-1, self.out_features))
        return out


def widen(model: Any) -> None:
    """Give a model the products that are quick on its device. Its type and its weights stay as they are."""
    if not multiplies(model.device.type, model.dtype):
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Widened
