"""One row for sequences that begin alike: what they share is run once, what differs follows as branches.

The choices of an example begin alike, so their tokens form a tree: a stem, and a branch for each choice.
The row holds stem and branches end to end. Every token stands at its own depth and sees only its own
path, so each sequence is computed as if it stood alone, in one pass and without a cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
import torch

from wif_store.extract.transfer import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

STEM, PADDING = 0, -1


@dataclass(frozen=True, slots=True)
class Tree:
    """Token sequences that begin alike, as one row.

    Attributes:
        tokens: The tokens of the row.
        branch: Of every token, 0 if it is of the stem, c + 1 if it is of the branch of sequence c.
        depth: Of every token, how many tokens stand before it in its sequence.
        paths: Of every sequence, the positions of its tokens in the row, int64.
    """

    tokens: list[int]
    branch: list[int]
    depth: list[int]
    paths: tuple[npt.NDArray[np.int64], ...]

    def __len__(self) -> int:
        """How many tokens are run."""
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """Whether one sequence holds every token, so that plain causal attention will do."""
        return any(len(path) == len(self.tokens) for path in self.paths)


def grow(sequences: Sequence[Sequence[int]]) -> Tree:
    """The tree of sequences: their longest common beginning, then the rest of each."""
    columns = zip(*sequences, strict=False)
    stem = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    tokens = list(sequences[0][:stem])
    branch, depth = [STEM] * stem, list(range(stem))
    paths = []
    for number, sequence in enumerate(sequences, 1):
        rest = sequence[stem:]
        path = np.arange(len(sequence))
        path[stem:] += len(tokens) - stem
        paths.append(path)
        tokens += rest
        branch += [number] * len(rest)
        depth += range(stem, len(sequence))
    return Tree(tokens, branch, depth, tuple(paths))


@dataclass(frozen=True, slots=True)
class Rows:
    """Trees as one rectangle, padded on the right, on the model's device.

    Attributes:
        ids: int64 ``[rows, width]``; padding is token 0, which nothing sees.
        branch: int64 ``[rows, width]``; -1 where there is padding.
        depth: int64 ``[rows, width]``.
        nodes: int64 ``[n]``, the flat positions of all real tokens, row by row: a token's *node* is its
            index among them.
        chains: Whether no tree has branches.
    """

    ids: torch.Tensor
    branch: torch.Tensor
    depth: torch.Tensor
    nodes: torch.Tensor
    chains: bool

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """What is added to attention scores so that a token sees its own path alone.

        A token sees itself and what stands before it on its path, at most ``window - 1`` tokens back.

        Returns:
            ``[rows, 1, width, width]`` of a type: 0 where a token is seen, else the least number of the type.
        """
        branch, depth = self.branch, self.depth
        back = depth[:, :, None] - depth[:, None, :]
        seen = (branch[:, None, :] == STEM) | (branch[:, None, :] == branch[:, :, None])
        seen &= back >= 0
        if window is not None:
            seen &= back < window
        # The least number, not infinity: a softmax over nothing would be NaN.
        unseen = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=branch.device)
        return torch.where(seen, torch.zeros_like(unseen), unseen)[:, None]


def pad(trees: Sequence[Tree], device: torch.device) -> Rows:
    """Lay trees side by side, padded to the longest."""
    width = max(map(len, trees))
    table = np.zeros((3, len(trees), width), np.int64)
    table[1] = PADDING
    for row, tree in enumerate(trees):
        table[:, row, : len(tree)] = tree.tokens, tree.branch, tree.depth
    ids, branch, depth = to_device(table, device)
    nodes = to_device(np.flatnonzero(table[1] != PADDING), device)
    chains = all(tree.is_chain for tree in trees)
    return Rows(ids, branch, depth, nodes, chains)
