"""How an SAE is trained: the settings, what they must be, and the batches that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wif_store.errors import SaeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wif_store.format.schema import Int64


@dataclass(frozen=True, slots=True)
class Settings:
    """How an SAE is trained.

    Attributes:
        width: How many features it has.
        k: How many of them are active at a token.
        tokens: How many tokens are trained on; those of the store are repeated until there are so many.
        batch: Tokens of a step.
        learning_rate: Of Adam; it grows over the first twentieth of the steps and falls over the last fifth.
        seed: Fixes which tokens are used, their order and the first weights.

    Raises:
        SaeError: If one of them is no positive number, or ``k`` is more than ``width``.
    """

    width: int
    k: int
    tokens: int
    batch: int
    learning_rate: float
    seed: int

    def __post_init__(self) -> None:
        for name in ("width", "k", "tokens", "batch", "learning_rate"):
            if not getattr(self, name) > 0:
                msg = f"{name} is {getattr(self, name)}; expected more than 0"
                raise SaeError(msg)
        if self.k > self.width:
            msg = f"k is {self.k} and the width is {self.width}; expected a k of at most the width"
            raise SaeError(msg)

    @property
    def steps(self) -> int:
        """How many batches there are."""
        return -(-self.tokens // self.batch)

    def batches(self, count: int) -> Iterator[Int64]:
        """Rows of ``count`` tokens, ``steps`` batches of them: every pass takes each row once, shuffled anew.

        Example:
            >>> settings = Settings(width=8, k=2, tokens=6, batch=3, learning_rate=0.001, seed=0)
            >>> sorted(int(row) for rows in settings.batches(3) for row in rows)
            [0, 0, 1, 1, 2, 2]
        """
        random = np.random.default_rng(self.seed)
        left = np.empty(0, np.int64)
        for _ in range(self.steps):
            while len(left) < self.batch:
                left = np.concatenate([left, random.permutation(count)])
            yield left[: self.batch]
            left = left[self.batch :]
