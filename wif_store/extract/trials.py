"""Trials of a decoder when it is loaded: what may save it work, and what must not be run together.

Architectures differ in what they take, and their code changes with releases. So nothing is believed: each
saving is tried on a few tokens, and is used only where the states stay what they are without it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from wif_store.errors import ModelError
from wif_store.extract.attention import needs_mask
from wif_store.extract.decoder import Decoder
from wif_store.extract.layers import output_of
from wif_store.extract.lengths import with_lengths
from wif_store.extract.trees import grow, pad

if TYPE_CHECKING:
    from torch import nn

TRIAL: Final = ((5, 11, 7, 3, 9, 6), (5, 11, 7, 8, 2), (5, 11, 7, 8, 4, 10))
"""Sequences, by token, on which a decoder shows whether it takes trees."""

AGREE: Final = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Relative L2 within which a tree's states are those of its sequences; a wrong mask gives about 1."""

DIFFER: Final = {torch.float32: 0.01, torch.float16: 0.2, torch.bfloat16: 0.5}
"""Relative L2 beyond which a model is refused; rounding stays far below."""

UNFIT: Final = (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError)
"""What a decoder may raise that does not take what it is tried on."""

TOKENWISE: Final = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
"""Parts of a layer that look at one token at a time, by the name that most architectures give them."""


def as_decoder(module: Any, config: Any, last: nn.Module, context_length: int | None = None) -> Decoder:
    """A transformers decoder, tried on what may save it work and on what changes its states.

    Args:
        module: The decoder.
        config: The configuration of the text model.
        last: The last decoder layer.
        context_length: The most tokens that the model is made for; None where that is not known.

    Raises:
        ModelError: If a token's state depends on the tokens after it, or on other rows of a batch.
    """
    plain = Decoder(module, {}, mapping=False, trees=False)
    alone = _alone(plain, last)
    decoder = _with_trees(module, _windows(config), alone) or plain
    _check_alone(decoder, alone)
    parts = dict(last.named_modules())
    sparing = replace(decoder, tokenwise=tuple(parts[name] for name in TOKENWISE if name in parts))
    return with_lengths(sparing if _may_spare(sparing, alone) else decoder, config, context_length)


def _windows(config: Any) -> dict[str, int | None] | None:
    """The window of each kind of attention layer; None where a kind is not one that trees know."""
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        return {"full_attention" if window is None else "sliding_attention": window}
    known = {"full_attention": None, "sliding_attention": window}
    return {kind: known[kind] for kind in sorted(kinds)} if kinds <= known.keys() else None


@torch.inference_mode()
def _alone(decoder: Decoder, last: nn.Module) -> list[torch.Tensor]:
    """The states of each sequence, run by itself: what all trials compare with.

    Raises:
        ModelError: If a decoder layer does not give one vector a token.
    """
    given: list[int] = []
    handle = last.register_forward_hook(lambda module, inputs, output: given.append(output_of(output).dim()))
    try:
        device = decoder.module.device
        states = [decoder.states(pad([grow([sequence])], device))[0] for sequence in TRIAL]
    finally:
        handle.remove()
    if any(dimensions != 3 for dimensions in given):
        msg = (
            f"{type(decoder.module).__name__} has no one residual stream: its decoder layers give {given[0]} "
            "dimensions; expected 3, which are rows, tokens and d_model"
        )
        raise ModelError(msg)
    return states


def _with_trees(
    module: Any, windows: dict[str, int | None] | None, alone: list[torch.Tensor]
) -> Decoder | None:
    # A model of one kind of layer may take masks by kind or one mask; the trial tells.
    masked = needs_mask(module.config)
    for mapping in (True, False) if windows and len(windows) == 1 else (True,):
        decoder = Decoder(module, windows or {}, mapping, trees=True, masked=masked)
        if windows and _takes_trees(decoder, alone):
            return decoder
    return None


@torch.inference_mode()
def _takes_trees(decoder: Decoder, alone: list[torch.Tensor]) -> bool:
    tree = grow(TRIAL)
    try:
        found = decoder.states(pad([tree], decoder.module.device))[0]
    except UNFIT:
        return False
    return all(
        relative(found[path], states) <= AGREE[states.dtype]
        for path, states in zip(tree.paths, alone, strict=True)
    )


@torch.inference_mode()
def _check_alone(decoder: Decoder, alone: list[torch.Tensor]) -> None:
    """Compare beginnings of unequal length that run together with the same tokens of each row run alone.

    Raises:
        ModelError: If they differ. NaN and infinity are left to the build, which names the layer.
    """
    lengths = (6, 3, 1)
    begun = [grow([sequence[:length]]) for sequence, length in zip(TRIAL, lengths, strict=True)]
    together = decoder.states(pad(begun, decoder.module.device))
    for found, states, length in zip(together, alone, lengths, strict=True):
        if relative(found[:length], states[:length]) > DIFFER[states.dtype]:
            msg = (
                f"the states of {type(decoder.module).__name__} depend on tokens that come later or on other "
                "rows of a batch; expected a causal decoder"
            )
            raise ModelError(msg)


@torch.inference_mode()
def _may_spare(decoder: Decoder, alone: list[torch.Tensor]) -> bool:
    rows = pad([grow([sequence]) for sequence in TRIAL], decoder.module.device)
    some = [0, 3, 7, -1]
    read = rows.nodes[some]
    try:
        found = decoder.states(rows, read).flatten(0, 1)[read]
    except UNFIT:
        return False
    expected = torch.cat(alone)[some]
    return relative(found, expected) <= AGREE[expected.dtype]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2; NaN where a value is not finite."""
    gap = (found.double() - expected.double()).norm()
    return float(gap / expected.double().norm())
