"""What a probe is: a scikit-learn estimator, how it is fitted, and how it is asked for scores.

A probe is fitted on the train split and asked for ``decision_function`` or else ``predict_proba`` on
the test split. Three attributes of the estimator (or of its factory) are looked at, none required:

* ``fit`` with a parameter ``validation`` is given the validation split as ``(X, y)``, and that is the
  one place where anything may be tuned;
* ``reads`` says what a row of ``X`` is: ``final_token`` (the default), ``mean_token`` or ``sequence``;
* every ``random_state`` is set to the seed.
"""

from __future__ import annotations

import inspect
import sysconfig
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import wif_store
from wif_store.errors import ScoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wif_store.format.schema import Int8
    from wif_store.scorer.features import Features, Reads
    from wif_store.scorer.stats import Floats


OURS: Final = Path(wif_store.__file__).parent
INSTALLED: Final = tuple(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
STANDARD: Final = Path(sysconfig.get_path("stdlib"))


@dataclass(frozen=True, slots=True)
class Probe:
    """A named way to make an unfitted estimator.

    ``threads`` marks a probe whose fits release the interpreter and never warn, so that several
    layers are fitted at once.
    """

    name: str
    make: Callable[[], Any]
    reads: Reads = "final_token"
    threads: bool = False


@dataclass(frozen=True, slots=True)
class Fitted:
    """An estimator after its fit, with the distinct warnings it gave on the way."""

    estimator: Any
    notes: tuple[str, ...] = ()


def fit(
    probe: Probe, features: Features, target: Int8, validation: tuple[Features, Int8], seed: int
) -> Fitted:
    """Make the probe's estimator and fit it; its own exceptions pass through."""
    estimator = probe.make()
    _seed(estimator, seed)
    extra = {"validation": validation} if _takes_validation(estimator) else {}
    if probe.threads:  # warning filters belong to the whole process
        return Fitted(estimator.fit(features, target, **extra))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = estimator.fit(features, target, **extra)
    notes = dict.fromkeys(f"{w.category.__name__}: {str(w.message).splitlines()[0]}" for w in caught)
    return Fitted(fitted if fitted is not None else estimator, tuple(notes))


def scores_of(estimator: Any, features: Features, where: str, *, constant_ok: bool = False) -> Floats:
    """Ask a fitted estimator for one score an example and check what it gives.

    ``constant_ok`` is for the shuffled control, where finding nothing to rank by is the right answer.

    Raises:
        ScoreError: if it has no scores, or they are not finite, all equal, mere labels, or too many
            or too few.
    """
    if hasattr(estimator, "decision_function"):
        given = np.asarray(estimator.decision_function(features))
    elif hasattr(estimator, "predict_proba"):
        given = np.asarray(estimator.predict_proba(features))
        classes = list(getattr(estimator, "classes_", (0, 1)))
        if given.ndim == 2 and given.shape[1] == len(classes) == 2:
            given = given[:, classes.index(1)]
    else:
        msg = f"{where} has neither decision_function nor predict_proba; a probe must give scores, not labels"
        raise ScoreError(msg)
    count = features.shape[0]
    if given.shape != (count,):
        msg = f"{where} gave scores of shape {given.shape} for {count} examples; expected one each"
        raise ScoreError(msg)
    return check_scores(given, where, constant_ok=constant_ok)


def check_scores(given: object, where: str, *, constant_ok: bool = False) -> Floats:
    """Return scores as float64 if they can rank examples.

    Raises:
        ScoreError: if they are not numbers, not finite, all equal, or only labels.
    """
    try:
        values: Floats = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"{where} gave scores that are not numbers ({error})"
        raise ScoreError(msg) from error
    if broken := int(np.count_nonzero(~np.isfinite(values))):
        msg = (
            f"{where} gave NaN or infinity for {broken} of {len(values)} examples; every score must be finite"
        )
        raise ScoreError(msg)
    if np.ptp(values) == 0 and not constant_ok:
        msg = f"{where} gave the same score ({values[0]:g}) to all {len(values)} examples; nothing is ranked"
        raise ScoreError(msg)
    if is_labels(values):
        low, high = np.unique(values)
        msg = (
            f"{where} gave the labels {low:g} and {high:g}; expected scores that rank, such as probabilities"
        )
        raise ScoreError(msg)
    return values


def is_labels(values: Floats) -> bool:
    """Tell whether scores are two whole numbers and nothing else: a classifier's answers."""
    distinct = np.unique(values)
    return len(values) > 2 and len(distinct) == 2 and bool((distinct == np.rint(distinct)).all())


def raised_at(error: BaseException) -> str:
    """Return where the code of the probe's author raised, as `` (probe.py, line 12)``; empty if nowhere.

    The last frame outside installed packages is the one that the author can mend. A probe that is itself
    an installed package has none: then it is the last frame outside this package.
    """
    own, installed = "", ""
    for frame in traceback.extract_tb(error.__traceback__):
        path, at = Path(frame.filename), f" ({frame.filename}, line {frame.lineno})"
        if path.is_relative_to(OURS) or not path.is_file():
            continue
        if any(path.is_relative_to(folder) for folder in INSTALLED):
            installed = at
        elif not path.is_relative_to(STANDARD):
            own = at
    return own or installed


def _takes_validation(estimator: Any) -> bool:
    return "validation" in inspect.signature(estimator.fit).parameters


def _seed(estimator: Any, seed: int) -> None:
    if not hasattr(estimator, "get_params"):
        return
    names = [name for name in estimator.get_params(deep=True) if name.split("__")[-1] == "random_state"]
    if names:
        estimator.set_params(**dict.fromkeys(names, seed))
