"""Batches, planned from the lengths of the rows alone: in length order, within a budget of tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

CPU_OVERHEAD: Final = 32
"""What a forward pass costs a CPU beside its tokens, in tokens."""
GPU_LAUNCHES: Final = 12
"""Passes that a GPU's host launches in about the time in which the GPU runs one of the full budget."""
SCORED_STATES: Final = 128
"""States from which on scoring is arithmetic. With fewer, it is reading the head's weights."""
HELD_TOKENS: Final = 8192
"""Tokens whose residuals may wait on the device until their batch is scored with others."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large one forward pass may be.

    In bfloat16 the last bits of a row depend on its batch, so the limits are part of what a store records:
    the same limits over the same examples give the same batches, on any number of workers.

    Attributes:
        tokens: Padded tokens of one batch.
        examples: Examples of one batch.
        overhead: What any forward pass costs, whatever its size, as padded tokens.
    """

    tokens: int
    examples: int = 512
    overhead: int = CPU_OVERHEAD


def tokens_for(device: torch.device) -> int:
    """How many tokens suit a device: by its kind and the size of its memory, not by what is free.

    A CPU is fastest where a batch stays in its cache (measured: docs/performance.md). A GPU of 80 GB
    gets 16,384, one of 24 GB 4,096, so that a batch's activations are a small part of its memory.
    """
    if device.type != "cuda":
        return 1024 if device.type == "cpu" else 4096
    gigabytes = torch.cuda.get_device_properties(device).total_memory / 1e9
    return int(2 ** max(9, int(math.log2(gigabytes * 205))))


def limits_for(device: torch.device, tokens: int | None = None) -> BatchLimits:
    """The limits that suit a device, or ``tokens`` and what suits it otherwise."""
    suit = tokens_for(device)
    overhead = CPU_OVERHEAD if device.type == "cpu" else suit // GPU_LAUNCHES
    return BatchLimits(tokens or suit, overhead=overhead)


def plan_batches(lengths: Sequence[int], limits: BatchLimits) -> Iterator[list[int]]:
    """Indices into ``lengths``, longest first, cut into batches within ``limits`` that cost least in all.

    Padding is weighed against the number of forward passes. A row longer than the budget is a batch of its
    own. Rows of one length keep their order.

    Args:
        lengths: Tokens of each row.
        limits: How large a batch may be.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    # For each number of rows from the start of the order: their least cost, and the start of their last
    # batch.
    cost = np.full(len(order) + 1, np.iinfo(np.int64).max)
    cost[0] = 0
    begins = np.zeros(len(order) + 1, np.int64)
    for start, row in enumerate(order):
        width = max(1, lengths[row])
        most = max(1, min(limits.examples, limits.tokens // width, len(order) - start))
        found = cost[start] + limits.overhead + width * np.arange(1, most + 1)
        reached = slice(start + 1, start + 1 + most)
        better = found < cost[reached]
        cost[reached][better] = found[better]
        begins[reached][better] = start
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(int(begins[cuts[-1]]))
    cuts.reverse()
    for start, end in pairwise(cuts):
        yield order[start:end]


def plan_batch_groups(
    lengths: Sequence[int], states: Sequence[int], limits: BatchLimits
) -> Iterator[list[list[int]]]:
    """The batches of ``plan_batches``, in groups that are scored together.

    Args:
        lengths: Tokens of each example.
        states: How many of them predict a scored token.
        limits: How large a batch may be.
    """
    group: list[list[int]] = []
    waiting = held = 0
    for batch in plan_batches(lengths, limits):
        group.append(batch)
        waiting += sum(states[i] for i in batch)
        held += sum(lengths[i] for i in batch)
        if waiting >= SCORED_STATES or held >= HELD_TOKENS:
            yield group
            group, waiting, held = [], 0, 0
    if group:
        yield group


def starts(lengths: Iterable[int]) -> npt.NDArray[np.int64]:
    """Where each of things of these lengths begins when they are laid end to end."""
    return np.cumsum([0, *lengths], dtype=np.int64)[:-1]


def within(values: npt.NDArray[np.int64], first: int, end: int) -> npt.NDArray[np.int64]:
    """The values from ``first`` up to ``end``, counted from ``first``."""
    return values[(values >= first) & (values < end)] - first
