"""A batch on its way through the model, and what may be changed on that way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from wif_store.extract.hooks import Capture
    from wif_store.extract.work import Work
    from wif_store.records import Record

Around = Callable[[torch.Tensor, torch.Tensor], AbstractContextManager[None]]
"""Given the flat positions, int64, of the last tokens of contexts in the forward pass that runs inside, and
which example of the block each row is of, int64. Where the model writes, that is the first pass inside, and
further passes run what follows."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that was run, and what was read of it.

    Attributes:
        works: Its examples.
        indices: Which examples of the block they are.
        nodes: Of each example, int64: the index of each of its nodes among all tokens of the batch.
        finals: int64, ascending: those of them that may be read at every layer.
        context_ends: int64, ascending: those of them that are the last token of a context.
        capture: The residuals.
    """

    works: list[Work]
    indices: list[int]
    nodes: list[npt.NDArray[np.int64]]
    finals: npt.NDArray[np.int64]
    context_ends: npt.NDArray[np.int64]
    capture: Capture


@dataclass(frozen=True, slots=True)
class BatchGroup:
    """Batches that are on the device and were scored together.

    Attributes:
        batches: The batches.
        records: The records of their block, to be filled in.
        log_probs: Of all scored tokens, float32.
        context_states: Of all last tokens of contexts, ``[n, d_model]``.
        mark: The point at which the main stream has computed everything.
        batch_tokens: How many tokens a batch has at most, where those that were planned did not fit into
            memory; else 0.
    """

    batches: list[Batch]
    records: list[Record | None]
    log_probs: torch.Tensor
    context_states: torch.Tensor
    mark: torch.cuda.Event | None
    batch_tokens: int
