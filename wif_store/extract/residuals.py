"""Reading the residual stream: forward hooks on the decoder blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from wif_store.errors import ResidualError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wif_store.extract.model import Model


class Capture:
    """The residuals of one forward pass, on the device, kept only where they are read.

    A hook sees the block's own output, ``resid_post``: the last entry of ``output_hidden_states`` is
    taken after the final norm and would be another thing.
    """

    def __init__(self, layers: Sequence[int], sequence_layers: Sequence[int], mask: torch.Tensor) -> None:
        real = mask.bool().flatten()
        self.lengths = mask.sum(-1)
        tokens = torch.arange(real.numel(), device=mask.device)
        self._tokens = tokens[real]
        # The last real token of every row, whichever side is padded.
        self._final = torch.where(real.view_as(mask), tokens.view_as(mask), -1).amax(-1)
        self._layers, self._sequence_layers = layers, sequence_layers
        self._finals: dict[int, torch.Tensor] = {}
        self._sequences: dict[int, torch.Tensor] = {}

    def read(self, layer: int, hidden: torch.Tensor) -> None:
        """Take what is wanted of one block's output, ``[rows, width, d_model]``."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        if layer in self._layers:
            self._finals[layer] = flat.index_select(0, self._final)
        if layer in self._sequence_layers:
            self._sequences[layer] = flat.index_select(0, self._tokens)

    def rows(self, rows: Sequence[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Final tokens ``[layers, n, d_model]`` and sequences ``n * [sequence_layers, length, d_model]``."""
        index = torch.tensor(rows, device=self._final.device)
        final = torch.stack([self._finals[layer].index_select(0, index) for layer in self._layers])
        lengths = self.lengths.tolist()
        if not self._sequence_layers:
            return final, [final.new_empty(0, lengths[row], final.shape[-1]) for row in rows]
        stacked = torch.stack([self._sequences[layer] for layer in self._sequence_layers])
        sequences = stacked.split(lengths, dim=1)  # type: ignore[no-untyped-call]
        return final, [sequences[row] for row in rows]


@contextmanager
def hooked(model: Model, capture: Capture) -> Iterator[None]:
    """Run forward passes inside with ``capture`` reading every block."""

    def hook(layer: int) -> Any:
        def read(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            capture.read(layer, output[0] if isinstance(output, tuple) else output)

        return read

    handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(model.blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def to_numpy(values: torch.Tensor) -> npt.NDArray[np.generic]:
    """Values on the host, bit for bit: bfloat16, which numpy has not, as its uint16 bits."""
    host = values.detach().to("cpu").contiguous()
    if host.dtype == torch.bfloat16:
        return host.view(torch.uint16).numpy()
    return host.numpy()


def check_finite(values: torch.Tensor, layers: Sequence[int], examples: Sequence[str]) -> None:
    """Refuse NaN and infinity in ``[layers, examples, ...]``, naming the first layer and example."""
    finite = torch.isfinite(values).flatten(2).all(-1) if values.dim() > 2 else torch.isfinite(values)
    if bool(finite.all()):
        return
    layer, example = (int(i) for i in (~finite).nonzero()[0])
    raise ResidualError(
        f"example {examples[example]}: the residual after block {layers[layer]} is not finite; "
        "a float16 forward pass overflows on many models: use --dtype bfloat16"
    )
