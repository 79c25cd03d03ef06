"""Batches planned from the data alone: length order, within a token budget; those scored together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CPU_OVERHEAD: Final = 32
"""What a forward pass costs a CPU beside its tokens, in tokens."""
GPU_LAUNCHES: Final = 12
"""Passes whose launching takes a GPU's host about as long as one of the whole budget takes the GPU."""
FLIGHT_STATES: Final = 128
"""States from which on scoring is arithmetic: with fewer it is reading the head's weights."""
FLIGHT_TOKENS: Final = 8192
"""Tokens whose residuals may wait for others to be scored with; a batch of a GPU is a flight of its own."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large one forward pass may be.

    bfloat16 arithmetic is not batch-invariant, so the limits are part of what a store records: the
    same limits over the same examples give the same batches, on any number of workers.
    """

    tokens: int
    """Padded tokens of one batch."""
    examples: int = 512
    """Rows of one batch."""
    overhead: int = CPU_OVERHEAD
    """What any forward pass costs, whatever its size, as padded tokens."""


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

    What is weighed is padding against the number of forward passes. A row longer than the budget is a batch
    of its own. Ties keep their order.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    # Of the first rows of the order: what they cost at least, and where their last batch begins.
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


def plan_flights(
    lengths: Sequence[int], states: Sequence[int], limits: BatchLimits
) -> Iterator[list[list[int]]]:
    """The batches of ``plan_batches``, in groups whose states are scored together.

    Args:
        lengths: Tokens of each row.
        states: How many of them predict a scored token.
        limits: How large a batch may be.
    """
    flight: list[list[int]] = []
    waiting = held = 0
    for batch in plan_batches(lengths, limits):
        flight.append(batch)
        waiting += sum(states[i] for i in batch)
        held += sum(lengths[i] for i in batch)
        if waiting >= FLIGHT_STATES or held >= FLIGHT_TOKENS:
            yield flight
            flight, waiting, held = [], 0, 0
    if flight:
        yield flight
