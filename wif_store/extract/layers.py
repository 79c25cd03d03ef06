"""Finding the decoder layers of a model: the modules whose outputs are the residual stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from wif_store.errors import ModelError

if TYPE_CHECKING:
    import torch


def decoder_of(causal_lm: Any) -> Any:
    """What a model itself calls its decoder: tokens in, states after the final norm out.

    The text model of Llama 4 calls itself so, head and all; its decoder has the usual name.
    """
    found = causal_lm.get_decoder() if hasattr(causal_lm, "get_decoder") else causal_lm
    return getattr(causal_lm, "model", found) if found is causal_lm else found


def output_of(output: Any) -> torch.Tensor:
    """The residuals that a decoder layer gives: some layers give more beside them."""
    residuals: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return residuals


def layers_within(module: nn.Module, count: int) -> dict[str, nn.ModuleList]:
    """The outermost module lists of a length, by name: lists of experts lie inside of layers."""
    lists = {name: m for name, m in module.named_modules() if isinstance(m, nn.ModuleList)}
    return {
        name: m
        for name, m in lists.items()
        if len(m) == count and not any(name.startswith(other + ".") for other in lists if other != name)
    }


def find_layers(causal_lm: Any, count: int) -> nn.ModuleList:
    """The decoder layers: the one list of ``count`` modules in what the model itself calls its decoder.

    A vision tower may be as deep as the decoder. It lies outside of the decoder, so it is not looked at.

    Raises:
        ModelError: If no list, or more than one, can be the layers; says what was looked at.
    """
    decoder = decoder_of(causal_lm)
    found = layers_within(decoder, count)
    if len(found) != 1:
        lists = {name: m for name, m in decoder.named_modules() if isinstance(m, nn.ModuleList)}
        seen = ", ".join(f"{name} [{len(m)}]" for name, m in lists.items() if name.count(".") < 4) or "none"
        msg = (
            f"the decoder layers of {type(causal_lm).__name__} cannot be found: looked for one module list "
            f"of length {count}, found {len(found)} of that length among: {seen}"
        )
        raise ModelError(msg)
    return next(iter(found.values()))
