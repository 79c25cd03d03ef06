"""Batches planned from the data alone: length order, bounded by a token budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


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
