"""Which candidates are kept, and in which split: a function of the seed and the example ids alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wif_store.errors import SelectionError
from wif_store.format.schema import SPLIT_CYCLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wif_store.tasks.base import Candidate


def visit_order(candidates: Iterable[Candidate], seed: int) -> list[Candidate]:
    """The candidates in the order they are tried: by a hash of the seed and the id."""
    return sorted(candidates, key=lambda c: hashlib.sha256(f"{seed}:{c.id}".encode()).digest())


@dataclass(frozen=True, slots=True)
class Keep:
    """Which examples of a block may be wanted, said before any block that was not counted yet is known.

    Those before it in visit order can only take places, so that nothing is left out that an end of the build
    could keep.

    Attributes:
        successes: Known to stand before the block.
        failures: Known to stand before the block.
        most: What a class can hold at the end.
    """

    successes: int
    failures: int
    most: int

    def wanted(self, outcomes: Iterable[bool]) -> list[bool]:
        """For each example of the block, in visit order, whether it may be kept."""
        ranks = {True: self.successes, False: self.failures}
        wanted = []
        for success in outcomes:
            ranks[success] += 1
            wanted.append(ranks[success] <= self.most)
        return wanted


@dataclass(slots=True)
class Tally:
    """Counts outcomes in visit order and says which examples may still be wanted.

    ``per_class`` is k, or None for the largest balanced k. ``total`` is the number of candidates.
    """

    per_class: int | None
    total: int
    successes: int = 0
    failures: int = 0
    outcomes: list[bool] = field(default_factory=list)

    @property
    def full(self) -> bool:
        """Whether both classes have reached ``per_class``; never under the largest k."""
        return self.per_class is not None and min(self.successes, self.failures) >= self.per_class

    def visit(self, success: bool) -> None:
        """Count one outcome."""
        self.outcomes.append(success)
        if success:
            self.successes += 1
        else:
            self.failures += 1

    def keep(self) -> Keep:
        """Which of the outcomes still to come may be wanted, by those that are known."""
        # At the largest k neither class can end above what the other one can still reach.
        reach = min(self.successes, self.failures) + self.total - len(self.outcomes)
        return Keep(self.successes, self.failures, reach if self.per_class is None else self.per_class)

    def settle(self) -> tuple[list[int], int]:
        """The positions to keep, in visit order, and k.

        Raises:
            SelectionError: If either class holds fewer than ``per_class``, or nothing at all.
        """
        available = min(self.successes, self.failures)
        k = available if self.per_class is None else self.per_class
        if available < k or k == 0:
            advice = (
                f"--per-class {available} or --per-class max would succeed"
                if available
                else ("no k can succeed: the model gives every example the same outcome")
            )
            msg = (
                f"found {self.successes} successes and {self.failures} failures in {len(self.outcomes)} "
                f"examples; expected {max(k, 1)} of each; {advice}"
            )
            raise SelectionError(msg)
        counts = {True: 0, False: 0}
        kept = []
        for position, success in enumerate(self.outcomes):
            counts[success] += 1
            if counts[success] <= k:
                kept.append(position)
        return kept, k

    def scanned(self, kept: Sequence[int]) -> int:
        """How many candidates had to be visited: up to the one that completed the selection."""
        return kept[-1] + 1 if self.per_class is not None else len(self.outcomes)


def assign_splits(successes: Iterable[bool]) -> list[str]:
    """Stratified 50/25/25: each class walks the split cycle in visit order."""
    ranks = {True: 0, False: 0}
    splits = []
    for success in successes:
        splits.append(SPLIT_CYCLE[ranks[success] % len(SPLIT_CYCLE)])
        ranks[success] += 1
    return splits
