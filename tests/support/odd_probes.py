"""Estimators that a scorer must refuse, and some it must take as they are."""

import warnings
from typing import ClassVar

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info


class _Probe:
    """A probe that works and finds nothing."""

    def fit(self, X, y):
        return self

    def decision_function(self, X):
        return np.arange(len(X), dtype=float)


class GivesNan(_Probe):
    def decision_function(self, X):
        return np.where(np.arange(len(X)) < 3, np.nan, 0.5)


class GivesConstant(_Probe):
    def decision_function(self, X):
        return np.full(len(X), 0.25)


class GivesLabels(_Probe):
    def decision_function(self, X):
        return np.arange(len(X)) % 2


class GivesTooFew(_Probe):
    def decision_function(self, X):
        return np.arange(len(X) - 1.0)


class GivesWords(_Probe):
    def decision_function(self, X):
        return np.array(["high"] * len(X))


class RaisesInFit(_Probe):
    def fit(self, X, y):
        msg = "no luck today\nwith details"
        raise RuntimeError(msg)


class RaisesInScoring(_Probe):
    def decision_function(self, X):
        msg = "weights"
        raise KeyError(msg)


class OnlyPredicts:
    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.arange(len(X)) % 2


class ReadsNonsense(_Probe):
    reads = "attention_pattern"


class ReadsBadly(_Probe):
    @property
    def reads(self):
        msg = "no such thing"
        raise LookupError(msg)


class Notes(_Probe):
    """Keeps what it was fitted and stopped on, and how many BLAS threads there were."""

    fits: ClassVar[list] = []

    def fit(self, X, y, validation):
        threads = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
        self.fits.append((X, validation[0], threads))
        return self


class Warns(_Probe):
    def fit(self, X, y):
        warnings.warn("slow going", UserWarning, stacklevel=1)
        return self


def pipeline():
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1))


def broken_factory():
    msg = "out of parts"
    raise RuntimeError(msg)


def number_factory():
    return 3


ready_made = LogisticRegression(C=0.1)
not_a_probe = 3
