"""Reading the residual stream: forward hooks on the decoder blocks."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from wif_store.errors import ResidualError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt


class Capture:
    """The residuals of one forward pass, on the device, kept only where they may be read.

    A hook sees the block's own output, ``resid_post``: the last entry of ``output_hidden_states`` is
    taken after the final norm and would be another thing.
    """

    def __init__(
        self, layers: Sequence[int], sequence_layers: Sequence[int], ends: torch.Tensor, tokens: torch.Tensor
    ) -> None:
        """Read ``layers`` at the flat places ``ends``, and ``sequence_layers`` at ``tokens``."""
        self._layers, self._sequence_layers = layers, sequence_layers
        self._ends, self._tokens = ends, tokens
        self._read: dict[int, torch.Tensor] = {}
        self._read_tokens: dict[int, torch.Tensor] = {}

    @contextmanager
    def reading(self, blocks: torch.nn.ModuleList) -> Iterator[None]:
        """Run a forward pass inside."""
        wanted = sorted({*self._layers, *self._sequence_layers})
        handles = [blocks[i].register_forward_hook(self._hook(i)) for i in wanted]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, layer: int) -> Any:
        def read(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            flat = hidden.reshape(-1, hidden.shape[-1])
            if layer in self._layers:
                self._read[layer] = flat.index_select(0, self._ends)
            if layer in self._sequence_layers:
                self._read_tokens[layer] = flat.index_select(0, self._tokens)

        return read

    def final_tokens(self, index: torch.Tensor) -> torch.Tensor:
        """``[layers, n, d_model]``: ``index`` counts among the ends."""
        return torch.stack([self._read[layer].index_select(0, index) for layer in self._layers])

    def sequences(self, index: torch.Tensor) -> torch.Tensor:
        """``[sequence_layers, n, d_model]``: ``index`` counts among the tokens."""
        if not self._sequence_layers:
            return self._read[self._layers[0]].new_empty(0, len(index), 0)
        return torch.stack(
            [self._read_tokens[layer].index_select(0, index) for layer in self._sequence_layers]
        )


def check_finite(
    values: torch.Tensor, layers: Sequence[int], counts: npt.ArrayLike, examples: Sequence[str]
) -> None:
    """Refuse NaN and infinity in ``[layers, rows, d_model]``, naming the first layer and its example.

    ``counts`` says how many rows each example has, in turn.
    """
    # A sum is not finite where a term of it is not, and far quicker had. One that overflows proves nothing.
    if bool(values.sum(-1, dtype=torch.float32).isfinite().all()):
        return
    finite = torch.isfinite(values).all(-1)
    if bool(finite.all()):
        return
    layer, row = (int(i) for i in (~finite).nonzero()[0])
    owners = torch.repeat_interleave(torch.as_tensor(counts))
    msg = (
        f"example {examples[int(owners[row])]}: the residual after block {layers[layer]} is not finite; "
        "a float16 forward pass overflows on many models: use --dtype bfloat16"
    )
    raise ResidualError(msg)
