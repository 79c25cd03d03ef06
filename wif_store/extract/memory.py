"""Errors of a device that is out of memory, in one line."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from wif_store.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def memory_errors(what: str, advice: str) -> Iterator[None]:
    """Make one line of what torch raises inside when memory is full.

    Args:
        what: What does not fit.
        advice: What to do.

    Raises:
        ModelError: Likewise.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        msg = f"{what} does not fit into memory: {advice}"
        raise ModelError(msg) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)  # a CPU and Apple's GPUs raise plain errors
    return "can't allocate memory" in text or "out of memory" in text
