"""What a probe has to beat: scores that need no residuals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.scorer.confidence import measures
from wif_store.scorer.features import Store, labels
from wif_store.scorer.results import CONFIDENCE
from wif_store.scorer.stats import Floats, auroc

if TYPE_CHECKING:
    from collections.abc import Mapping

PROMPT_LENGTH: Final = "prompt-length"
TFIDF: Final = "tf-idf"
TFIDF_GRID: Final = (0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True, slots=True)
class Scored:
    """One score for each example of two splits, and what was chosen on train and validation to get it."""

    validation: Floats
    test: Floats
    settings: Mapping[str, Any]


def confidence_measures(store: Store) -> dict[str, Scored]:
    """Score by each measure of what the model says of itself."""
    target = labels(store, "validation")
    held, test = (measures(store, split) for split in ("validation", "test"))
    return {
        name: Scored(held[name], test[name], {"validation_auroc": auroc(target, held[name])}) for name in held
    }


def confidence(by_measure: Mapping[str, Scored]) -> Scored:
    """Score by the measure that is best on validation, the first of equals."""
    of = max(by_measure, key=lambda name: by_measure[name].settings["validation_auroc"])
    return replace(by_measure[of], settings={"of": of, **by_measure[of].settings})


def prompt_length(store: Store) -> Scored:
    """Score by the number of tokens of the prompt; whether more is better is read off the train split."""
    column = "prompt_tokens" if store.manifest.outcome == "response" else "tokens"
    rise = auroc(labels(store, "train"), store.column(column, "train"))
    sign = 1 if rise >= 0.5 else -1
    held, test = (sign * store.column(column, split).astype(np.float64) for split in ("validation", "test"))
    return Scored(held, test, {"sign": sign})


def tfidf(store: Store) -> Scored:
    """Score by logistic regression on TF-IDF of the prompt's words and word pairs, ``C`` by validation."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    train = vectorizer.fit_transform(store.column("prompt", "train"))
    held, test = (vectorizer.transform(store.column("prompt", split)) for split in ("validation", "test"))
    target, held_target = labels(store, "train"), labels(store, "validation")
    best, found = -1.0, Scored(np.empty(0), np.empty(0), {})
    for c in TFIDF_GRID:
        model = LogisticRegression(C=c, solver="liblinear", random_state=0).fit(train, target)
        scores = model.decision_function(held)
        if (here := auroc(held_target, scores)) > best:
            best = here
            found = Scored(scores, model.decision_function(test), {"C": c, "validation_auroc": here})
    return found


BASELINES: Final = (CONFIDENCE, PROMPT_LENGTH, TFIDF)


def baselines(store: Store) -> tuple[dict[str, Scored], dict[str, Scored]]:
    """The :data:`BASELINES`, and the measures of which confidence is one."""
    by_measure = confidence_measures(store)
    found = (confidence(by_measure), prompt_length(store), tfidf(store))
    return dict(zip(BASELINES, found, strict=True)), by_measure
