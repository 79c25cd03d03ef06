"""Changes of the residual stream: what is added to it, or taken out of it, after one decoder layer."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wif_store.format.schema import Float32

At = Literal["all", "final"]
"""The tokens at which the residual stream is changed: all of them, or the last one of the context, from which
the answer is predicted."""


@dataclass(frozen=True, slots=True)
class Intervention:
    """A change of the residual stream ``h`` after one decoder layer, where probes read it.

    ``h`` becomes ``h + shift * direction - remove * (h · direction) * direction``.

    Attributes:
        layer: The 0-based decoder layer.
        direction: Of unit norm, float32 ``[d_model]``.
        shift: How far it is moved, in units of the residual stream.
        remove: Which share of its component along the direction is taken out; 1 projects the direction out.
        at: The tokens at which this happens.

    Example::

        Intervention(9, direction, shift=4.0)
        Intervention(9, direction, remove=1.0, at="final")
    """

    layer: int
    direction: Float32
    shift: float = 0.0
    remove: float = 0.0
    at: At = "all"

    def changed(self, values: torch.Tensor) -> torch.Tensor:
        """Residuals ``[..., d_model]`` after the change, computed in float32 and rounded once."""
        direction = torch.from_numpy(self.direction).to(values.device)
        wide = values.float()
        along = self.shift - self.remove * (wide @ direction)
        return (wide + along[..., None] * direction).to(values.dtype)

    @contextmanager
    def applied(self, modules: Any, final: torch.Tensor) -> Iterator[None]:
        """Inside, the model runs with the change.

        Args:
            modules: The decoder layers.
            final: int64, the flat positions that ``at="final"`` stands for in the first forward pass inside.
                Further passes run tokens that follow.
        """
        passes = 0

        def change(module: Any, inputs: Any, output: Any) -> Any:
            nonlocal passes
            passes += 1
            hidden = output[0] if isinstance(output, tuple) else output
            if self.at == "all":
                hidden = self.changed(hidden)
            elif passes == 1:
                flat = hidden.flatten(0, 1)
                moved = self.changed(flat.index_select(0, final))
                hidden = flat.index_copy(0, final, moved).view_as(hidden)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = modules[self.layer].register_forward_hook(change)
        try:
            yield
        finally:
            handle.remove()
