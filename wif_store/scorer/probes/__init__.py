"""Probes: scikit-learn estimators, ours by name and anyone's by ``module:factory``."""

from __future__ import annotations

import importlib
import inspect
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wif_store.errors import ScoreError, first_line
from wif_store.scorer.features import check_reads
from wif_store.scorer.probes.base import Fitted as Fitted
from wif_store.scorer.probes.base import Probe as Probe
from wif_store.scorer.probes.base import check_scores as check_scores
from wif_store.scorer.probes.base import fit as fit
from wif_store.scorer.probes.base import is_labels as is_labels
from wif_store.scorer.probes.base import raised_at as raised_at
from wif_store.scorer.probes.base import scores_of as scores_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def _paper_logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=100, max_iter=1000)


def _logistic() -> Any:
    from wif_store.scorer.probes.logistic import LogisticPath

    return LogisticPath()


def _mean_difference() -> Any:
    from wif_store.scorer.probes.mean_difference import MeanDifference

    return MeanDifference()


def _lda() -> Any:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


def _attention() -> Any:
    from wif_store.scorer.probes.attention import AttentionProbe

    return AttentionProbe()


def _ensemble() -> Any:
    from wif_store.scorer.probes.ensemble import LayerEnsemble

    return LayerEnsemble()


def _sae_logistic() -> Any:
    from wif_store.scorer.probes.sparse_features import SaeLogistic

    return SaeLogistic()


def _sae_k() -> Any:
    from wif_store.scorer.probes.sparse_features import SaeK

    return SaeK()


PROBES = {
    probe.name: probe
    for probe in (
        Probe("paper-logistic", _paper_logistic),
        Probe("logistic", _logistic, threads=True),
        Probe("mean-difference", _mean_difference, threads=True),
        Probe("lda", _lda),
        Probe("mean-token", _logistic, reads="mean_token", threads=True),
        Probe("attention", _attention, reads="sequence"),
        Probe("ensemble", _ensemble, reads="layers", threads=True),
        Probe("sae-logistic", _sae_logistic, reads="sae"),
        Probe("sae-k", _sae_k, reads="sae"),
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


def _import(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if not attribute or not all(part.isidentifier() for part in module.split(".")):
        msg = f"no probe {name!r}; expected one of {', '.join(PROBES)}, or module:factory"
        raise ScoreError(msg)
    try:
        with _working_folder_on_path():
            return getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        # The module is somebody's code: it may raise anything, or end the program.
        found = f"{type(error).__name__}{raised_at(error)}: {first_line(error)}"
        msg = f"probe {name!r} cannot be imported ({found}); expected module:factory on the Python path"
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
        fits = hasattr(sample, "fit")
        reads = getattr(sample, "reads", getattr(thing, "reads", "final_token"))
    except Exception as error:
        found = f"{type(error).__name__}{raised_at(error)}: {first_line(error)}"
        msg = f"probe {name!r} cannot be made ({found}); its factory is given nothing"
        raise ScoreError(msg) from error
    if not fits:
        msg = f"probe {name!r} makes a {type(sample).__name__} without fit; expected a scikit-learn estimator"
        raise ScoreError(msg)
    return Probe(name, make, check_reads(reads, f"probe {name!r}"))


@contextmanager
def _working_folder_on_path() -> Iterator[None]:
    """Look for modules in the working folder too, after all others, while a probe is imported from there.

    The folder comes last, so that a file in it with the name of a library never stands in for that library.
    """
    folder = str(Path.cwd())
    sys.path.append(folder)
    try:
        yield
    finally:
        # The last one: the folder may have been on the path before.
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]
