"""A model's decoder, run over rows of trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

from wif_store.extract.trees import Rows, grow, pad

TRIAL: Final = ((5, 11, 7, 3, 9, 6), (5, 11, 7, 8, 2), (5, 11, 7, 8, 4, 10))
"""Sequences, by token, on which a decoder shows whether it takes trees."""

AGREE: Final = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Relative L2 within which a tree's states are those of its sequences; a wrong mask gives about 1."""


@dataclass(slots=True)
class Decoder:
    """The part of a model that turns tokens into states, with what its attention layers look like.

    Attributes:
        module: The transformers module, without the head.
        windows: How far back each kind of attention layer sees, in tokens; None for all of it.
        mapping: Whether it takes a mask for each kind of layer, or one mask for all.
        trees: Whether it takes trees. One that does not runs every sequence in a row of its own.
    """

    module: Any
    windows: dict[str, int | None]
    mapping: bool
    trees: bool

    def states(self, rows: Rows) -> torch.Tensor:
        """The states after the final norm, ``[rows, width, d_model]``."""
        if rows.chains:
            # Under causal attention, padding on the right is never seen: there is nothing to mask.
            arguments: dict[str, Any] = {}
        else:
            masks = {kind: rows.mask(window, self.module.dtype) for kind, window in self.windows.items()}
            mask = masks if self.mapping else next(iter(masks.values()))
            arguments = {"attention_mask": mask, "position_ids": rows.depth}
        output = self.module(input_ids=rows.ids, use_cache=False, **arguments)
        return output.last_hidden_state  # type: ignore[no-any-return]


def as_decoder(module: Any, config: Any) -> Decoder:
    """A transformers decoder, tried on trees; one that gives other states for them runs without."""
    windows = _windows(config)
    # A model of one kind of layer may know masks by kind or not; the trial tells.
    for mapping in (True, False) if windows and len(windows) == 1 else (True,):
        decoder = Decoder(module, windows or {}, mapping, trees=True)
        if windows and _takes_trees(decoder):
            return decoder
    return Decoder(module, {}, mapping=False, trees=False)


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
def _takes_trees(decoder: Decoder) -> bool:
    device, dtype = decoder.module.device, decoder.module.dtype
    tree = grow(TRIAL)
    try:
        found = decoder.states(pad([tree], device))[0].double()
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError):
        return False
    for sequence, path in zip(TRIAL, tree.paths, strict=True):
        alone = decoder.states(pad([grow([sequence])], device))[0].double()
        if not bool((found[path] - alone).norm() <= AGREE[dtype] * alone.norm()):
            return False
    return True
