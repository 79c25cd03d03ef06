"""What steering did to the answers of a model, as frozen records, and what it is to be read as.

They stand in ``results.json`` below ``steering``, one for each task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

MEANS: Final = "difference of means"
RANDOM: Final = "random directions"
TELLING: Final = 40
"""Test examples from which on something is said of an effect: each random direction has two then."""


def verdict_of(low: float, high: float, examples: int) -> str:
    """What the interval of a difference says of so many examples, to be read before the control's name."""
    if examples < TELLING:
        return "has too few examples to be told from"
    if low > 0:
        return "changes more answers than"
    return "changes fewer answers than" if high < 0 else "does not change more answers than"


@dataclass(frozen=True, slots=True)
class Dose:
    """What one move did to the test examples.

    Attributes:
        method: What gave the direction, :data:`MEANS` or :data:`RANDOM`.
        strength: Of the chosen direction, in standard deviations along it over train; less than 0 against it.
            Where a direction is projected out, the share of it that is.
        size: The norm of what is added to the residual; of random directions the mean. 0 where a direction is
            projected out.
        accuracy: Share of right answers.
        accuracy_interval: Of its change from strength 0, on the same examples, around accuracy at strength 0.
        flips: Share of answers that are others than at strength 0.
        flips_interval: Its interval. Intervals are over examples, and over random directions too.
        right_to_wrong: Share of all answers that were right and are wrong.
        wrong_to_right: The reverse.
        kl: How far the distribution of the first token of the answer moved: mean KL in nats.
    """

    method: str
    strength: float
    size: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    flips: float
    flips_interval: tuple[float, float]
    right_to_wrong: float
    wrong_to_right: float
    kl: float


@dataclass(frozen=True, slots=True)
class Effect:
    """Steering less its controls at the same KL, at the strength that was chosen on validation.

    Attributes:
        flips: Share of examples whose answer changes under either sign.
        control: The same of the controls.
        difference: ``flips - control``, from ``low`` to ``high``: a paired bootstrap over examples and over
            random directions.
        kl: Mean KL in nats, over both signs.
        control_kl: The same of the controls.
        verdict: In words, at the level of the interval. Of few examples there is none: where all agree, a
            bootstrap would be certain.
    """

    flips: float
    control: float
    difference: float
    low: float
    high: float
    kl: float
    control_kl: float
    verdict: str


@dataclass(frozen=True, slots=True)
class Steering:
    """What one direction does to the answers on one task.

    Attributes:
        task: The task.
        method: What gave the direction.
        layer: The 0-based decoder layer after which the residual stream is changed.
        at: ``all`` tokens, or the ``final`` one of the context.
        ablate: Whether the direction is projected out, and not moved along.
        strength: Chosen on validation.
        spread: One standard deviation along the direction over train, in units of the residual stream.
        examples: Test examples.
        accuracy: At strength 0.
        differs: How many answers at strength 0 are not those of the store.
        apart: Of how many examples the log-likelihoods at strength 0 are farther from those of the store than
            the tolerance of ``verify --recompute``.
        against_random: The effect against random directions.
        against_means: The effect against the difference of means.
        push: Accuracy at ``+strength`` less that at ``-strength``, with its interval; None where the
            direction is projected out.
        factors: What moves of each kind of control are multiplied by, for the same KL.
        doses: Every move that was made.
        notes: What is to be known of how the strength was found.
    """

    task: str
    method: str
    layer: int
    at: str
    ablate: bool
    strength: float
    spread: float
    examples: int
    accuracy: float
    differs: int
    apart: int
    against_random: Effect
    against_means: Effect
    push: tuple[float, float, float] | None
    factors: Mapping[str, float]
    doses: tuple[Dose, ...]
    notes: tuple[str, ...] = ()

    def curve(self, method: str, measure: str) -> list[tuple[float, float, float, float]]:
        """``accuracy`` or ``flips`` against the strength of the moves: strength, value, low, high.

        Strength 0 is among them.
        """
        still = self.accuracy if measure == "accuracy" else 0.0
        points = [
            (dose.strength, getattr(dose, measure), *getattr(dose, f"{measure}_interval"))
            for dose in self.doses
            if dose.method == method
        ]
        return sorted([*points, (0.0, still, still, still)])

    def dose(self, method: str, strength: float) -> Dose:
        """One of the moves."""
        return next(d for d in self.doses if (d.method, d.strength) == (method, strength))
