"""Copies between the host and the device: on CUDA through pinned memory, while the forward pass goes on."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np
    import numpy.typing as npt

    from wif_store.records import Raw


def to_device(values: npt.NDArray[np.int64], device: torch.device) -> torch.Tensor:
    """A copy on the device, made after what was launched there before. Nothing here waits for it."""
    host = torch.from_numpy(values)
    if (
        device.type == "cuda"
    ):  # From memory that is not pinned, a copy waits for all that was launched before.
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


class SideStream:
    """Work beside the forward pass: on CUDA a stream of its own, elsewhere just what comes next.

    The results of one group of batches are copied here, in one thread, while the next group runs on the main
    stream. Nothing that is used here may be freed before ``to_host`` has returned.

    Attributes:
        depth: How many groups may be on the device at a time. 0 on a CPU, which does one thing at a time.
    """

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        # Of high priority: its small kernels must not wait for large ones that were launched before them.
        self._stream = torch.cuda.Stream(device, priority=-1) if cuda else None
        self.depth = 2 if cuda else 0

    def mark(self) -> torch.cuda.Event | None:
        """The point that the main stream reaches when all that it was given so far is done."""
        if self._stream is None:
            return None
        mark: torch.cuda.Event = torch.cuda.current_stream(self._stream.device).record_event()
        return mark

    def after(self, mark: torch.cuda.Event | None) -> AbstractContextManager[Any]:
        """Run what is inside on the side stream, once the main stream has reached ``mark``."""
        if self._stream is None or mark is None:
            return nullcontext()
        self._stream.wait_event(mark)
        return torch.cuda.stream(self._stream)

    def to_host(self, values: torch.Tensor) -> torch.Tensor:
        """A copy on the host, which is complete when this returns."""
        if self._stream is None:
            return values.to("cpu")
        # torch keeps pinned memory for the next copy once nobody holds this one.
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        self._stream.synchronize()
        return host


def to_numpy(host: torch.Tensor) -> Raw:
    """Values bit for bit; bfloat16, which numpy lacks, as its uint16 bits."""
    host = host.detach().contiguous()
    return host.view(torch.uint16).numpy() if host.dtype == torch.bfloat16 else host.numpy()
