"""What a move did to examples: answers, verdicts, how far the distribution moved; and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wif_store.scorer.stats import Floats

DRAWS: Final = 20_000
"""Resamples of a bootstrap interval."""
AT_ONCE: Final = 500

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a run gave, example by example.

    Attributes:
        answers: What was answered, ``[n]``: the index of a choice, or the answer in a response.
        success: Whether it was right, bool ``[n]``.
        kl: How far the distribution of the answer's first token moved, in nats, float64 ``[n]``.
    """

    answers: npt.NDArray[np.object_]
    success: Bools
    kl: Floats

    def flips(self, before: Outcomes) -> Bools:
        """Which answers are others than before."""
        changed: Bools = self.answers != before.answers
        return changed


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """The outcomes of several runs of examples, one after the other."""
    return Outcomes(
        np.concatenate([part.answers for part in parts]),
        np.concatenate([part.success for part in parts]),
        np.concatenate([part.kl for part in parts]),
    )


@dataclass(frozen=True)
class Resampling:
    """A bootstrap over examples, and over the random directions that examples share.

    Attributes:
        count: How many examples.
        direction: Which random direction each was given, int64 ``[n]``.
        confidence: Of the intervals.
    """

    count: int
    direction: npt.NDArray[np.int64]
    confidence: float

    def interval(self, values: npt.ArrayLike) -> tuple[float, float]:
        """An interval of a mean over examples."""
        return self._ends(np.asarray(values, np.float64), None)

    def interval_of_random(self, values: npt.ArrayLike) -> tuple[float, float]:
        """Likewise of values that random directions gave."""
        return self._ends(None, np.asarray(values, np.float64))

    def interval_of_difference(self, values: npt.ArrayLike, random: npt.ArrayLike) -> tuple[float, float]:
        """An interval of the mean of ``values`` less that of ``random``, paired by example."""
        return self._ends(np.asarray(values, np.float64), np.asarray(random, np.float64))

    @cached_property
    def _draws(self) -> tuple[Any, Any]:
        """How often each draw takes each example, and that times how often it takes its random direction.

        Both float32 ``[draws, n]``.
        """
        rng = np.random.default_rng(0)
        most = int(self.direction.max()) + 1
        found = []
        for size in (self.count, most):
            parts = [rng.multinomial(size, np.full(size, 1 / size), AT_ONCE) for _ in range(DRAWS // AT_ONCE)]
            found.append(np.concatenate([part.astype(np.float32) for part in parts]))
        return found[0], found[0] * found[1][:, self.direction]

    def _ends(self, values: Floats | None, random: Floats | None) -> tuple[float, float]:
        examples, both = self._draws
        drawn = np.zeros(DRAWS)
        if values is not None:
            drawn += examples @ values / self.count
        if random is not None:
            total = both.sum(1)
            drawn -= np.where(total, both @ random, random.mean()) / np.maximum(total, 1)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return (float(low), float(high)) if values is not None else (-float(high), -float(low))
