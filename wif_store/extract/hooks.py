"""Reading the residual stream: forward hooks on the decoder layers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from wif_store.errors import ResidualError
from wif_store.extract.layers import output_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt


class Capture:
    """The residuals of a batch, on the device, kept only where they may be read.

    A batch may be several forward passes. A hook sees the layer's own output, ``resid_post``: the last entry
    of ``output_hidden_states`` is taken after the final norm and would be another thing.
    """

    def __init__(self, layers: Sequence[int], sequence_layers: Sequence[int]) -> None:
        """Read ``layers`` at final tokens, and ``sequence_layers`` at every token."""
        self._layers, self._sequence_layers = layers, sequence_layers
        self._finals: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        self._sequences: dict[int, list[torch.Tensor]] = {layer: [] for layer in sequence_layers}

    @contextmanager
    def reading(
        self, modules: torch.nn.ModuleList, finals: torch.Tensor, tokens: torch.Tensor
    ) -> Iterator[None]:
        """Run one forward pass inside.

        Args:
            modules: The decoder layers.
            finals: int64, the flat positions of its tokens that may be final ones.
            tokens: int64, the flat positions of its tokens that may be read.
        """

        def hook(layer: int) -> Any:
            def read(module: torch.nn.Module, inputs: Any, output: Any) -> None:
                hidden = output_of(output)
                flat = hidden.reshape(-1, hidden.shape[-1])
                if layer in self._finals:
                    self._finals[layer].append(_selected(flat, finals))
                if layer in self._sequences:
                    self._sequences[layer].append(_selected(flat, tokens))

            return read

        wanted = sorted({*self._layers, *self._sequence_layers})
        handles = [modules[layer].register_forward_hook(hook(layer)) for layer in wanted]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def final_tokens(self, index: torch.Tensor) -> torch.Tensor:
        """``[layers, n, d_model]``: ``index`` counts the ``finals`` of all passes."""
        return torch.stack([_joined(self._finals[layer]).index_select(0, index) for layer in self._layers])

    def sequences(self, index: torch.Tensor) -> torch.Tensor:
        """``[sequence_layers, n, d_model]``: ``index`` counts the ``tokens`` of all passes."""
        if not self._sequence_layers:
            return self._finals[self._layers[0]][0].new_empty(0, len(index), 0)
        return torch.stack(
            [_joined(self._sequences[layer]).index_select(0, index) for layer in self._sequence_layers]
        )


def _selected(flat: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Some rows, selected on the layer's own device, and brought to that of the index."""
    return flat.index_select(0, index.to(flat.device)).to(index.device)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def check_finite(
    values: torch.Tensor, layers: Sequence[int], counts: npt.ArrayLike, examples: Sequence[str]
) -> None:
    """Refuse NaN and infinity in residuals.

    Args:
        values: ``[layers, rows, d_model]``.
        layers: The 0-based layers.
        counts: How many rows each example has, in turn.
        examples: The ids of the examples.

    Raises:
        ResidualError: If a value is not finite; names the first layer and its example.
    """
    # A sum is not finite where a term of it is not, and is far quicker. One that overflows proves nothing.
    if bool(values.sum(-1, dtype=torch.float32).isfinite().all()):
        return
    finite = torch.isfinite(values).all(-1)
    if bool(finite.all()):
        return
    layer, row = (int(i) for i in (~finite).nonzero()[0])
    owners = torch.repeat_interleave(torch.as_tensor(counts))
    msg = (
        f"example {examples[int(owners[row])]}: the residual after layer {layers[layer]} is not finite; "
        "a float16 forward pass overflows on many models: use --dtype bfloat16"
    )
    raise ResidualError(msg)
