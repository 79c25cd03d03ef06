"""A model's decoder, run over rows of trees."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

    from wif_store.extract.trees import Rows


@dataclass(slots=True)
class Decoder:
    """The part of a model that turns tokens into states, with what is known of how it does so.

    Attributes:
        module: The transformers module, without the head.
        windows: How many tokens each kind of attention layer sees, itself included; None for all of them.
        mapping: Whether it takes a mask for each kind of layer, or one mask for all.
        trees: Whether it takes trees. If not, every sequence is run in a row of its own.
        masked: Whether it is given a mask even where plain causal attention will do.
        tokenwise: Parts of its last layer that need not run at tokens of which nothing is read.
        switch: The length from which on a sequence is computed in another way than shorter ones are: rows of
            the two kinds must not run together. None where no length makes a difference.
        longest: The most tokens of a sequence whose states do not depend on what else was run; None for any.
    """

    module: Any
    windows: dict[str, int | None]
    mapping: bool
    trees: bool
    masked: bool = False
    tokenwise: tuple[nn.Module, ...] = ()
    switch: int | None = None
    longest: int | None = None

    def states(self, rows: Rows, read: torch.Tensor | None = None) -> torch.Tensor:
        """The states after the final norm, ``[rows, width, d_model]``.

        Args:
            rows: What is run.
            read: Flat positions, int64. The last layer need be right at these only; what it gives elsewhere
                means nothing. None for all positions.
        """
        if rows.chains and not self.masked:
            # Under causal attention, no token sees the padding to its right: there is nothing to mask.
            arguments: dict[str, Any] = {}
        else:
            masks = {kind: rows.mask(window, self.module.dtype) for kind, window in self.windows.items()}
            mask = masks if self.mapping else next(iter(masks.values()))
            arguments = {"attention_mask": mask, "position_ids": rows.depth}
        with ExitStack() as stack:
            if read is not None:
                for part in self.tokenwise:
                    stack.enter_context(_only_at(part, read))
            output = self.module(input_ids=rows.ids, use_cache=False, **arguments)
        return output.last_hidden_state.to(rows.ids.device)  # type: ignore[no-any-return]

    def is_long(self, length: int) -> bool:
        """On which side of ``switch`` a sequence of so many tokens is."""
        return self.switch is not None and length >= self.switch


@contextmanager
def _only_at(part: nn.Module, positions: torch.Tensor) -> Iterator[None]:
    """Inside, a part runs at the flat positions alone and gives zeros elsewhere."""
    shape: torch.Size

    def gather(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        nonlocal shape
        [values] = inputs
        shape = values.shape
        return (values.flatten(0, 1).index_select(0, positions.to(values.device))[None],)

    def scatter(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        rows, width, _ = shape
        values = output.new_zeros(rows * width, output.shape[-1])
        return values.index_copy_(0, positions.to(output.device), output[0]).view(rows, width, -1)

    handles = part.register_forward_pre_hook(gather), part.register_forward_hook(scatter)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
