"""Matrix products in float32 on a CPU that has no instructions for products of the model's own type."""

from __future__ import annotations

import platform
from functools import cache
from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

PIECE_BYTES: Final = 2**22
"""How many bytes of a weight are float32 at once: little enough for a CPU's cache."""

INSTRUCTIONS: Final[Mapping[tuple[str, torch.dtype], tuple[str, ...]]] = {
    ("x86", torch.bfloat16): ("avx512_bf16", "amx_bf16"),
    ("x86", torch.float16): ("avx512_fp16", "amx_fp16"),
    ("arm", torch.bfloat16): ("bf16", "sve_bf16"),
    ("arm", torch.float16): ("fp16_arith",),
}
"""The capabilities of a CPU, as torch calls them, of which any one gives it quick products of a type."""


@cache
def needs_float32(dtype: torch.dtype) -> bool:
    """Whether products of a type are made in float32 on this CPU, because it has no quick ones of that type.

    A CPU without bfloat16 instructions has bfloat16 products, but about ten times as slow as float32's. Of a
    processor that is not known, quick products are assumed.
    """
    family = _family(platform.machine())
    instructions = INSTRUCTIONS.get((family, dtype))
    if instructions is None:
        return False
    if not torch.backends.mkldnn.is_available():
        return True  # torch then multiplies these types one value at a time
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return not any(capabilities.get(name) for name in instructions)
    # Before 2.13 torch only says how wide a CPU's vectors are. None of x86's narrow ones multiply these
    # types.
    return family == "x86" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _family(machine: str) -> str:
    """``x86``, ``arm`` or ``other``: what the names of a processor's capabilities go by."""
    name = machine.lower()
    if name in ("x86_64", "amd64", "i686", "x86"):
        return "x86"
    return "arm" if name.startswith(("aarch64", "arm64")) else "other"


def piece_rows(linear: nn.Linear) -> int:
    """Outputs of one piece of a linear layer."""
    return min(linear.out_features, max(1, PIECE_BYTES // (4 * linear.in_features)))


@cache
def _buffer(rows: int, columns: int) -> torch.Tensor:
    """The same memory each time, for fresh pages cost as much as widening."""
    return torch.empty(rows, columns)


def pieces(linear: nn.Linear) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor | None]]:
    """A linear layer piece by piece: which of its outputs, their weights and their biases, in float32.

    The weights are good until the next piece.
    """
    rows = piece_rows(linear)
    for start in range(0, linear.out_features, rows):
        piece = slice(start, start + rows)
        weight = linear.weight[piece]
        if weight.dtype != torch.float32:
            weight = _buffer(rows, linear.in_features)[: len(weight)].copy_(weight)
        yield piece, weight, None if linear.bias is None else linear.bias[piece].float()


class Float32Linear(nn.Linear):
    """A linear layer whose product is made in float32 and rounded once; for inference, in one thread."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` -> ``[..., out_features]``, of the same type."""
        wide = input.float()
        out = input.new_empty(*input.shape[:-1], self.out_features)
        for piece, weight, bias in pieces(self):
            out[..., piece] = functional.linear(wide, weight, bias)
        return out


def use_float32(model: Any) -> None:
    """Have a model's products made in float32 on a CPU that has no quick ones of the model's type."""
    for module in model.modules():
        if (
            type(module) is nn.Linear
            and module.weight.device.type == "cpu"
            and needs_float32(module.weight.dtype)
        ):
            module.__class__ = Float32Linear
