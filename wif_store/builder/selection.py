"""Which candidates are kept, and in which split: a function of the seed, the groups and the ids alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from wif_store.errors import SelectionError, SourceError
from wif_store.format.schema import SPLITS
from wif_store.tasks.base import PUBLISHED_SPLIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wif_store.tasks.base import Candidate

QUARTERS: Final = ("train", "train", "validation", "test")
"""The splits of the four quarters of all groups."""

LEAST_PER_CLASS: Final = 4
"""With fewer, test would be left without a pair."""


def visit_order(candidates: Iterable[Candidate], seed: int) -> list[Candidate]:
    """The candidates in the order they are tried: by a hash of the seed and the id."""
    return sorted(candidates, key=lambda c: hashlib.sha256(f"{seed}:{c.id}".encode()).digest())


def split_of(group: str, seed: int) -> str:
    """The split of a group: half of all groups are in train, a quarter in validation, a quarter in test.

    Example:
        >>> split_of("6f1ed002ab559585", 0)
        'validation'
    """
    return QUARTERS[hashlib.sha256(f"{seed}:{group}".encode()).digest()[0] % len(QUARTERS)]


def divide(candidates: Iterable[Candidate], seed: int, splits: str) -> dict[str, list[Candidate]]:
    """The candidates of each split, in visit order.

    Args:
        candidates: Those of a source.
        seed: Fixes the order and the splits.
        splits: ``seeded``, by the hash of the group, or ``published``, as the source says.

    Raises:
        SourceError: If the source says no split of a candidate.
    """
    divided: dict[str, list[Candidate]] = {split: [] for split in SPLITS}
    for candidate in visit_order(candidates, seed):
        if splits == "seeded":
            divided[split_of(candidate.group, seed)].append(candidate)
        else:
            divided[_published_split(candidate)].append(candidate)
    return divided


def pairs_wanted(per_class: int | None) -> dict[str, int | None]:
    """How many pairs of a success and a failure each split is to have; None for as many as there are.

    No split has fewer where ``per_class`` is larger, so that a smaller store is the prefix of a larger one.

    Raises:
        SelectionError: If a split would be left without a pair.
    """
    if per_class is None:
        return dict.fromkeys(SPLITS)
    if per_class < LEAST_PER_CLASS:
        msg = (
            f"--per-class {per_class} leaves validation and test without a pair: a quarter goes to each; "
            f"give at least {LEAST_PER_CLASS}"
        )
        raise SelectionError(msg)
    half = per_class // 2
    return {"train": per_class - half, "validation": half - half // 2, "test": half // 2}


@dataclass(frozen=True, slots=True)
class Keep:
    """Conservative filter: keeps every example that could still be among the first pairs of its split.

    Attributes:
        successes: Counted before the block that is filtered, at least.
        failures: Likewise.
        most: Pairs that the split can have at the end.
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
    """Counts the outcomes of one split in visit order.

    Attributes:
        wanted: Pairs that the split is to have; None for as many as there are.
        total: Candidates of the split.
        positions: Where in visit order the successes (True) and the failures (False) are.
    """

    wanted: int | None
    total: int
    positions: dict[bool, list[int]] = field(default_factory=lambda: {True: [], False: []})

    @property
    def seen(self) -> int:
        """How many outcomes were counted."""
        return len(self.positions[True]) + len(self.positions[False])

    @property
    def pairs(self) -> int:
        """How many pairs of a success and a failure the split has so far."""
        found = min(map(len, self.positions.values()))
        return found if self.wanted is None else min(found, self.wanted)

    @property
    def full(self) -> bool:
        """Whether the split has all the pairs it is to have."""
        return self.wanted is not None and self.pairs == self.wanted

    def visit(self, success: bool) -> None:
        """Count one outcome."""
        self.positions[success].append(self.seen)

    def rows(self, start: int) -> list[int]:
        """The positions of the rows of complete pairs, from pair ``start`` on: a success, a failure, ..."""
        successes, failures = (self.positions[kind][start : self.pairs] for kind in (True, False))
        return [position for pair in zip(successes, failures, strict=True) for position in pair]

    def waiting(self) -> list[int]:
        """The positions of examples that are kept once their other half is found."""
        most = self._most
        return [p for kind in (True, False) for p in self.positions[kind][self.pairs : most]]

    def keep(self) -> Keep:
        """Which of the outcomes still to come may be kept, by those that are known."""
        return Keep(len(self.positions[True]), len(self.positions[False]), self._most)

    def will_fill(self, outstanding: int) -> bool:
        """Whether so many more outcomes, of the kinds there were so far, will fill the split."""
        if self.wanted is None or not self.seen:
            return False
        fewer = min(map(len, self.positions.values()))
        return fewer * (1 + outstanding / self.seen) >= self.wanted

    @property
    def scanned(self) -> int:
        """How many candidates had to be visited: up to the one that completed the last pair."""
        if not self.full:
            return self.seen
        return 1 + max(self.positions[kind][self.pairs - 1] for kind in (True, False))

    @property
    def _most(self) -> int:
        # As many as there are: a class cannot end above what the other one can still reach.
        reach = min(map(len, self.positions.values())) + self.total - self.seen
        return reach if self.wanted is None else self.wanted


def check_pairs(tallies: Mapping[str, Tally]) -> None:
    """Refuse a selection that lacks pairs in a split.

    Raises:
        SelectionError: Saying how many pairs each split has, and which k would succeed.
    """
    lacking = [s for s, t in tallies.items() if t.pairs < (1 if t.wanted is None else t.wanted)]
    if not lacking:
        return
    found = ", ".join(f"{t.pairs} in {split}" for split, t in tallies.items())
    wanted = ", ".join(f"{t.wanted or 1} in {split}" for split, t in tallies.items())
    k = _most_per_class([t.pairs for t in tallies.values()])
    if k:
        advice = f"--per-class {k} or --per-class max would succeed"
    elif any(t.seen and not min(map(len, t.positions.values())) for t in tallies.values()):
        advice = "the model gives every example of a split the same outcome: use more rows or another model"
    else:
        advice = "no k can succeed: give a source with more rows"
    msg = f"the source ran out: found pairs of a success and a failure: {found}; expected {wanted}; {advice}"
    raise SelectionError(msg)


def _most_per_class(pairs: Sequence[int]) -> int:
    """The largest k that leaves each split its share; 0 if there is none."""
    train, validation, test = pairs
    # The largest k for each split alone, as pairs_wanted rounds the shares.
    k = min(2 * train, 4 * validation + 1, 4 * test + 3)
    return k if k >= LEAST_PER_CLASS else 0


def _published_split(candidate: Candidate) -> str:
    if candidate.published_split not in SPLITS:
        msg = (
            f"row {candidate.source_row + 1} carries the split {candidate.published_split!r}; "
            f"--splits published expects {PUBLISHED_SPLIT} to be one of: {', '.join(SPLITS)}"
        )
        raise SourceError(msg)
    return str(candidate.published_split)
