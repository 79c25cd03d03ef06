"""Between the host and the device: on CUDA through pinned memory, and beside the forward pass."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from wif_store.records import Raw

STAGED: Final = 64 * 2**20
"""Bytes that go to the host at once."""


def to_device(values: npt.NDArray[np.int64], device: torch.device) -> torch.Tensor:
    """A copy on the device, in line with what was launched there: nothing here waits for that."""
    host = torch.from_numpy(values)
    if device.type == "cuda":  # From other memory CUDA copies once everything before is done.
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


class Side:
    """Work beside the forward pass: on CUDA a stream of its own, elsewhere just what comes next.

    What is taken off one flight runs here, in one thread, while the next one is on the main stream. Nothing
    that is used here may be freed before ``to_host`` has returned.
    """

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        # Of high priority: its small kernels must not wait for large ones that were launched before them.
        self._stream = torch.cuda.Stream(device, priority=-1) if cuda else None
        self._staged = torch.empty(STAGED if cuda else 0, dtype=torch.uint8, pin_memory=cuda)
        self.depth = 2 if cuda else 0
        """How many flights may be on the device while none is taken off: a CPU does one thing at a time."""

    def mark(self) -> torch.cuda.Event | None:
        """The point that the main stream will have reached once all it was given so far is done."""
        if self._stream is None:
            return None
        mark: torch.cuda.Event = torch.cuda.current_stream(self._stream.device).record_event()
        return mark

    def after(self, mark: torch.cuda.Event | None) -> AbstractContextManager[Any]:
        """Run what is inside beside the main stream, from ``mark`` on."""
        if self._stream is None or mark is None:
            return nullcontext()
        self._stream.wait_event(mark)
        return torch.cuda.stream(self._stream)

    def to_host(self, values: torch.Tensor) -> torch.Tensor:
        """A copy on the host, there when this returns."""
        if self._stream is None or not values.numel():
            return values.to("cpu")
        # numpy asks for huge pages, which are written many times as quickly as torch's own when they are new;
        # and to pin memory takes longer than to copy out of what is pinned.
        host = np.empty(values.nbytes, np.uint8)
        source = values.reshape(-1).view(torch.uint8)
        for start in range(0, len(host), len(self._staged)):
            piece = source[start : start + len(self._staged)]
            staged = self._staged[: len(piece)]
            staged.copy_(piece, non_blocking=True)
            self._stream.synchronize()
            host[start : start + len(piece)] = staged.numpy()
        return torch.from_numpy(host).view(values.dtype).view(values.shape)


def to_numpy(host: torch.Tensor) -> Raw:
    """Values bit for bit: bfloat16, which numpy has not, as its uint16 bits."""
    host = host.detach().contiguous()
    return host.view(torch.uint16).numpy() if host.dtype == torch.bfloat16 else host.numpy()
