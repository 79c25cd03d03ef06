"""What a probe has to beat: scores that need no residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.scorer.confidence import best_measure, measures
from wif_store.scorer.features import Store, labels
from wif_store.scorer.results import CONFIDENCE
from wif_store.scorer.stats import Floats, auroc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PROMPT_LENGTH: Final = "prompt-length"
TFIDF: Final = "tf-idf"
TFIDF_GRID: Final = (0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True, slots=True)
class Scored:
    """One score for each example of two splits, and what was chosen on train and validation to get it."""

    validation: Floats
    test: Floats
    settings: Mapping[str, Any]


def confidence(store: Store) -> Scored:
    """Score by what the model says of itself: the measure that is best on validation."""
    of, found = best_measure(store)
    held, test = (measures(store, split)[of] for split in ("validation", "test"))
    return Scored(held, test, {"of": of, "validation_auroc": found[of]})


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


BASELINES: Final[Mapping[str, Callable[[Store], Scored]]] = {
    CONFIDENCE: confidence,
    PROMPT_LENGTH: prompt_length,
    TFIDF: tfidf,
}


def confidence_measures(store: Store) -> Iterator[tuple[str, Scored]]:
    """Every measure of what the model says of itself, of which :func:`confidence` takes one."""
    _, validation = best_measure(store)
    held, test = (measures(store, split) for split in ("validation", "test"))
    for name, found in validation.items():
        yield name, Scored(held[name], test[name], {"validation_auroc": found})
