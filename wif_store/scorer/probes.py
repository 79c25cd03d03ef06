"""Probes: scikit-learn estimators, ours by name and anyone's by ``module:factory``.

A probe is fitted on the train split and asked for ``decision_function`` or else ``predict_proba`` on
the test split. Three attributes of the estimator (or of its factory) are looked at, none required:

* ``fit`` with a parameter ``validation`` is given the validation split as ``(X, y)``, and that is the
  one place where anything may be tuned;
* ``reads`` says what a row of ``X`` is: ``final_token`` (the default), ``mean_token`` or ``sequence``;
* every ``random_state`` is set to the seed.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wif_store.errors import ScoreError
from wif_store.scorer.features import Features, Reads, check_reads

if TYPE_CHECKING:
    from collections.abc import Callable

    from wif_store.format.schema import Int8
    from wif_store.scorer.stats import Floats


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


def _paper_logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=100, max_iter=1000)


def _logistic() -> Any:
    from wif_store.scorer.logistic import LogisticPath

    return LogisticPath()


def _mean_difference() -> Any:
    from wif_store.scorer.estimators import MeanDifference

    return MeanDifference()


def _lda() -> Any:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


def _attention() -> Any:
    from wif_store.scorer.attention import AttentionProbe

    return AttentionProbe()


PROBES = {
    probe.name: probe
    for probe in (
        Probe("paper-logistic", _paper_logistic),
        Probe("logistic", _logistic, threads=True),
        Probe("mean-difference", _mean_difference, threads=True),
        Probe("lda", _lda),
        Probe("mean-token", _logistic, reads="mean_token", threads=True),
        Probe("attention", _attention, reads="sequence"),
    )
}


def find_probe(probe: str | Probe | object) -> Probe:
    """Return the probe of a name, of ``module:factory``, of an estimator or of a factory.

    Raises:
        ScoreError: if there is no such probe, or it is not an estimator.
    """
    if isinstance(probe, Probe):
        return probe
    if isinstance(probe, str):
        if probe in PROBES:
            return PROBES[probe]
        return _as_probe(_import(probe), probe)
    return _as_probe(probe, getattr(probe, "__name__", type(probe).__name__))


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
    if given.shape != (len(features),):
        msg = f"{where} gave scores of shape {given.shape} for {len(features)} examples; expected one each"
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


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not attribute:
        msg = f"no probe {name!r}; expected one of {', '.join(PROBES)}, or module:factory"
        raise ScoreError(msg)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        msg = f"probe {name!r} cannot be imported ({error}); expected module:factory on the Python path"
        raise ScoreError(msg) from error


def _as_probe(thing: Any, name: str) -> Probe:
    """Wrap an estimator, which is cloned for every fit, or a factory, which is called."""
    from sklearn.base import clone

    is_instance = hasattr(thing, "fit") and not inspect.isclass(thing)
    if not is_instance and not callable(thing):
        msg = (
            f"probe {name!r} is a {type(thing).__name__}; expected an estimator or a factory that returns one"
        )
        raise ScoreError(msg)
    make = (lambda: clone(thing)) if is_instance else thing
    try:
        sample = make()
    except Exception as error:
        msg = f"probe {name!r} cannot be made ({type(error).__name__}: {error}); its factory is given nothing"
        raise ScoreError(msg) from error
    if not hasattr(sample, "fit"):
        msg = f"probe {name!r} makes a {type(sample).__name__} without fit; expected a scikit-learn estimator"
        raise ScoreError(msg)
    reads = getattr(sample, "reads", getattr(thing, "reads", "final_token"))
    return Probe(name, make, check_reads(reads, f"probe {name!r}"))


def _takes_validation(estimator: Any) -> bool:
    return "validation" in inspect.signature(estimator.fit).parameters


def _seed(estimator: Any, seed: int) -> None:
    if not hasattr(estimator, "get_params"):
        return
    names = [name for name in estimator.get_params(deep=True) if name.split("__")[-1] == "random_state"]
    if names:
        estimator.set_params(**dict.fromkeys(names, seed))
