"""How far scores can be trusted as probabilities, and what a user who may abstain gains by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from wif_store.scorer.stats import Floats

BINS: Final = 10
"""Bins of the expected calibration error, each with as many examples."""
STEPS: Final = 20
"""Points of a risk-coverage curve that are kept."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a method's scores are worth beyond their ranking, on the test split.

    ``brier`` is the mean squared difference between the probability of success and the outcome. ``ece`` is
    the expected calibration error over ten bins of equally many examples. Both are None where the scores are
    no probabilities and there is no validation split to make them so. ``risk_coverage`` holds pairs of
    coverage and risk: the share of failures among the most trusted examples. ``aurc`` is the area under that
    curve, over all coverages; without knowledge it is the share of failures, one half in a store.
    """

    aurc: float
    risk_coverage: tuple[tuple[float, float], ...]
    brier: float | None = None
    ece: float | None = None


def calibration(labels: npt.ArrayLike, scores: Floats, probabilities: Floats | None = None) -> Calibration:
    """Measure a method on the test split.

    Args:
        labels: 0 or 1, ``[n]``.
        scores: Finite numbers, higher where success is likelier, ``[n]``.
        probabilities: Of success, ``[n]``; None where they are not known.

    Example:
        >>> calibration([1, 0, 1, 0], np.array([0.9, 0.1, 0.8, 0.2])).risk_coverage[-1]
        (1.0, 0.5)
    """
    truth = np.asarray(labels, dtype=np.float64)
    risk = _risks(truth, scores)
    n = len(truth)
    at = np.unique(np.ceil(np.linspace(1 / STEPS, 1, STEPS) * n).astype(int)) - 1
    curve = tuple(((int(i) + 1) / n, float(risk[i])) for i in at)
    if probabilities is None:
        return Calibration(float(risk.mean()), curve)
    brier = float(np.mean((probabilities - truth) ** 2))
    return Calibration(float(risk.mean()), curve, brier, _expected_error(truth, probabilities))


def probabilities_by(validation: tuple[npt.ArrayLike, Floats], scores: Floats) -> Floats:
    """Make scores probabilities of success, by a logistic curve that is fitted on validation (Platt).

    Args:
        validation: Labels 0 or 1, ``[m]``, and their scores, ``[m]``.
        scores: ``[n]``.

    Returns:
        float64 ``[n]``, from 0 to 1.
    """
    from sklearn.linear_model import LogisticRegression

    truth, held = np.asarray(validation[0]), np.asarray(validation[1], dtype=np.float64)
    centre, spread = held.mean(), held.std() or 1.0
    model = LogisticRegression(max_iter=1000).fit(((held - centre) / spread)[:, None], truth)
    found: Floats = model.predict_proba(((scores - centre) / spread)[:, None])[:, 1]
    return found


def as_probabilities(scores: Floats) -> Floats | None:
    """Scores that are probabilities as they stand: all of them from 0 to 1."""
    return scores if scores.min() >= 0 and scores.max() <= 1 else None


def _risks(truth: Floats, scores: Floats) -> Floats:
    """Share of failures among the 1, 2, ... n most trusted; of equal scores each is the mean of all."""
    order = np.argsort(-scores, kind="stable")
    found: Floats = np.cumsum(1.0 - _level(truth[order], scores[order])) / np.arange(1, len(order) + 1)
    return found


def _level(truth: Floats, ranked: Floats) -> Floats:
    """The outcomes in the order of their scores; those of equal scores are the mean of all."""
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    sizes = np.diff(np.r_[starts, len(ranked)])
    level: Floats = np.repeat(np.add.reduceat(truth, starts) / sizes, sizes)
    return level


def _expected_error(truth: Floats, probabilities: Floats) -> float:
    """Mean distance between the probability and the share of successes, bin by bin."""
    order = np.argsort(probabilities, kind="stable")
    ranked = probabilities[order]
    bins = zip(np.array_split(ranked, BINS), np.array_split(_level(truth[order], ranked), BINS), strict=True)
    return float(sum(abs((said - came).sum()) for said, came in bins) / len(truth))
