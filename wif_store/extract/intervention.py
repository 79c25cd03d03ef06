"""Changes of the residual stream: what is added to it, or taken out of it, after one decoder layer."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from wif_store.extract.layers import output_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wif_store.format.schema import Float32

At = Literal["all", "final"]
"""The tokens at which the residual stream is changed: all of them, or the last one of the context, from which
the answer is predicted."""


@dataclass(frozen=True, slots=True)
class Intervention:
    """A change of the residual stream ``h`` after one decoder layer, where probes read it.

    ``h`` becomes ``h + shift * direction - remove * (h · direction) * direction``. Each may be one for all
    examples of a block, or of each example.

    Attributes:
        layer: The 0-based decoder layer.
        direction: Of unit norm, float32 ``[d_model]`` or ``[n, d_model]``.
        shift: How far it is moved, in units of the residual stream; or float32 ``[n]``.
        remove: Which share of its component along the direction is taken out; 1 projects the direction out.
            Or float32 ``[n]``.
        at: The tokens at which this happens.

    Example::

        Intervention(9, direction, shift=4.0)
        Intervention(9, direction, remove=1.0, at="final")
    """

    layer: int
    direction: Float32
    shift: float | Float32 = 0.0
    remove: float | Float32 = 0.0
    at: At = "all"

    def of(self, first: int, end: int) -> Intervention:
        """That of some of the examples."""

        def part(values: Any, dimensions: int) -> Any:
            return values[first:end] if np.ndim(values) == dimensions else values

        shift, remove = part(self.shift, 1), part(self.remove, 1)
        return replace(self, direction=part(self.direction, 2), shift=shift, remove=remove)

    @contextmanager
    def applied(self, modules: Any, final: torch.Tensor, owner: torch.Tensor) -> Iterator[None]:
        """Inside, the model runs with the change.

        Args:
            modules: The decoder layers.
            final: int64, the flat positions that ``at="final"`` stands for in the first forward pass inside.
                Further passes run tokens that follow.
            owner: int64, which example of the block each row is of.
        """
        passes = 0

        def change(module: Any, inputs: Any, output: Any) -> Any:
            nonlocal passes
            passes += 1
            hidden = output_of(output)
            if self.at == "all":
                hidden = self._changed(hidden, owner[:, None])
            elif passes == 1:
                flat = hidden.flatten(0, 1)
                moved = self._changed(flat.index_select(0, final), owner[final // hidden.shape[1]])
                hidden = flat.index_copy(0, final, moved).view_as(hidden)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = modules[self.layer].register_forward_hook(change)
        try:
            yield
        finally:
            handle.remove()

    def _changed(self, values: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        """Residuals ``[..., d_model]`` after the change, computed in float32 and rounded once."""

        def of_owner(given: Any, dimensions: int) -> torch.Tensor:
            held = torch.as_tensor(given, dtype=torch.float32, device=values.device)
            return held[owner] if held.dim() == dimensions else held

        direction = of_owner(self.direction, 2)
        wide = values.float()
        along = of_owner(self.shift, 1) - of_owner(self.remove, 1) * (wide * direction).sum(-1)
        return (wide + along[..., None] * direction).to(values.dtype)
