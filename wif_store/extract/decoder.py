"""A model's decoder, run over rows of trees."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from wif_store.extract.trees import Rows, grow, pad

if TYPE_CHECKING:
    from collections.abc import Iterator

TRIAL: Final = ((5, 11, 7, 3, 9, 6), (5, 11, 7, 8, 2), (5, 11, 7, 8, 4, 10))
"""Sequences, by token, on which a decoder shows whether it takes trees."""

AGREE: Final = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Relative L2 within which a tree's states are those of its sequences; a wrong mask gives about 1."""

UNFIT: Final = (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError)
"""What a decoder may raise that does not take what it is tried on."""

TOKENWISE: Final = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
"""What of a block looks at one token at a time, as most architectures call it; others run it whole."""


@dataclass(slots=True)
class Decoder:
    """The part of a model that turns tokens into states, with what its attention layers look like.

    Attributes:
        module: The transformers module, without the head.
        windows: How far back each kind of attention layer sees, in tokens; None for all of it.
        mapping: Whether it takes a mask for each kind of layer, or one mask for all.
        trees: Whether it takes trees. One that does not runs every sequence in a row of its own.
        eager: Whether it makes a mask even of chains, and waits for a GPU before it does: it gets ours.
        last: Parts of its last block that need not run at tokens of which nothing is read.
    """

    module: Any
    windows: dict[str, int | None]
    mapping: bool
    trees: bool
    eager: bool = False
    last: tuple[nn.Module, ...] = ()

    def states(self, rows: Rows, read: torch.Tensor | None = None) -> torch.Tensor:
        """The states after the final norm, ``[rows, width, d_model]``.

        Args:
            rows: What is run.
            read: The flat places at which the last block is read; what it gives elsewhere means nothing.
        """
        if rows.chains and not self.eager:
            # Under causal attention, padding on the right is never seen: there is nothing to mask.
            arguments: dict[str, Any] = {}
        else:
            masks = {kind: rows.mask(window, self.module.dtype) for kind, window in self.windows.items()}
            mask = masks if self.mapping else next(iter(masks.values()))
            arguments = {"attention_mask": mask, "position_ids": rows.depth}
        with ExitStack() as stack:
            if read is not None:
                for part in self.last:
                    stack.enter_context(_only_at(part, read))
            output = self.module(input_ids=rows.ids, use_cache=False, **arguments)
        return output.last_hidden_state  # type: ignore[no-any-return]


@contextmanager
def _only_at(part: nn.Module, places: torch.Tensor) -> Iterator[None]:
    """Inside, a part runs at the flat places alone and gives zeros elsewhere."""
    shape: torch.Size

    def gather(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        nonlocal shape
        [values] = inputs
        shape = values.shape
        return (values.flatten(0, 1).index_select(0, places)[None],)

    def scatter(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        rows, width, _ = shape
        values = output.new_zeros(rows * width, output.shape[-1])
        return values.index_copy_(0, places, output[0]).view(rows, width, -1)

    handles = part.register_forward_pre_hook(gather), part.register_forward_hook(scatter)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def as_decoder(module: Any, config: Any, last: nn.Module) -> Decoder:
    """A transformers decoder whose last block is ``last``, tried on what may save it work.

    One that gives other states for trees, or with its last block run in part, runs without.
    """
    decoder = _with_trees(module, _windows(config)) or Decoder(module, {}, mapping=False, trees=False)
    parts = dict(last.named_modules())
    spared = replace(decoder, last=tuple(parts[name] for name in TOKENWISE if name in parts))
    return spared if _may_spare(spared) else decoder


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


def _with_trees(module: Any, windows: dict[str, int | None] | None) -> Decoder | None:
    # A model of one kind of layer may know masks by kind or not; the trial tells.
    eager = module.config._attn_implementation == "eager"
    for mapping in (True, False) if windows and len(windows) == 1 else (True,):
        decoder = Decoder(module, windows or {}, mapping, trees=True, eager=eager)
        if windows and _takes_trees(decoder):
            return decoder
    return None


@torch.inference_mode()
def _takes_trees(decoder: Decoder) -> bool:
    device = decoder.module.device
    tree = grow(TRIAL)
    try:
        found = decoder.states(pad([tree], device))[0]
    except UNFIT:
        return False
    alone = [decoder.states(pad([grow([sequence])], device))[0] for sequence in TRIAL]
    return all(_agree(found[path], states) for path, states in zip(tree.paths, alone, strict=True))


@torch.inference_mode()
def _may_spare(decoder: Decoder) -> bool:
    rows = pad([grow([sequence]) for sequence in TRIAL], decoder.module.device)
    read = rows.nodes[[0, 3, 7, -1]]
    try:
        found = decoder.states(rows, read).flatten(0, 1)[read]
    except UNFIT:
        return False
    return _agree(found, decoder.states(rows).flatten(0, 1)[read])


def _agree(found: torch.Tensor, expected: torch.Tensor) -> bool:
    gap = (found.double() - expected.double()).norm()
    return bool(gap <= AGREE[expected.dtype] * expected.double().norm())
