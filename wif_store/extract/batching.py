"""Batches planned from the data alone: length order, bounded by a token budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large one forward pass may be.

    bfloat16 arithmetic is not batch-invariant, so the limits are part of what a store records: the
    same limits over the same examples give the same batches, on any number of workers.
    """

    tokens: int = 4096
    """Padded tokens of one batch."""
    examples: int = 256
    """Rows of one batch."""


def plan_batches(lengths: Sequence[int], limits: BatchLimits) -> Iterator[list[int]]:
    """Indices into ``lengths``, longest first, in batches whose padded size is within ``limits``.

    A row longer than the budget is a batch of its own. Ties keep their order.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        rows = max(1, min(limits.examples, limits.tokens // max(1, lengths[order[start]])))
        yield order[start : start + rows]
        start += rows


@dataclass(frozen=True, slots=True)
class Padded:
    """Token sequences of unequal length as one rectangle.

    ``ids`` and ``mask`` are int64 ``[rows, width]`` on the model's device; the mask is 1 at real tokens.
    """

    ids: torch.Tensor
    mask: torch.Tensor


def pad(sequences: Sequence[Sequence[int]], device: torch.device, *, left: bool) -> Padded:
    """Pad with token 0, which the mask hides; the model's own pad token and side do not matter."""
    width = max(map(len, sequences))
    ids = torch.zeros(len(sequences), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[row, place] = torch.tensor(sequence)
        mask[row, place] = 1
    return Padded(ids.to(device, non_blocking=True), mask.to(device, non_blocking=True))


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position of each real token within its own sequence, int64, whichever side is padded."""
    return (mask.cumsum(-1) - 1).clamp(min=0)
