"""What a probe has to beat: scores of the test examples that need no residuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.errors import ScoreError
from wif_store.scorer.features import Store, labels
from wif_store.scorer.results import CONFIDENCE
from wif_store.scorer.stats import Floats, auroc

if TYPE_CHECKING:
    from wif_store.format.schema import Example

PROMPT_LENGTH: Final = "prompt-length"
TFIDF: Final = "tf-idf"
TFIDF_GRID: Final = (0.01, 0.1, 1.0, 10.0, 100.0)

Scored = tuple[Floats, Mapping[str, Any]]
"""One score for each test example, and what was chosen on train and validation to get it."""


def confidence(store: Store) -> Scored:
    """Score by the model's own likelihood, as it is.

    Of choices that is the margin between the log-likelihoods of the best two; of a response its summed
    log-likelihood or the mean over its tokens, whichever is better on validation.
    """
    if store.manifest.outcome == "response":
        target = labels(store, "validation")
        found = {how: auroc(target, _likelihood(store, "validation", how)) for how in ("sum", "mean")}
        how = max(found, key=lambda name: found[name])
        return _likelihood(store, "test", how), {"of": how, "validation_auroc": found[how]}
    return np.array([_margin(example) for example in store.examples("test")], dtype=np.float64), {}


def prompt_length(store: Store) -> Scored:
    """Score by the number of tokens of the prompt; whether more is better is read off the train split."""
    column = "prompt_tokens" if store.manifest.outcome == "response" else "tokens"
    rise = auroc(labels(store, "train"), store.column(column, "train"))
    sign = 1 if rise >= 0.5 else -1
    return sign * store.column(column, "test").astype(np.float64), {"sign": sign}


def tfidf(store: Store) -> Scored:
    """Score by logistic regression on TF-IDF of the prompt's words and word pairs, ``C`` by validation."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    train = vectorizer.fit_transform(store.column("prompt", "train"))
    held, test = (vectorizer.transform(store.column("prompt", split)) for split in ("validation", "test"))
    target, held_target = labels(store, "train"), labels(store, "validation")
    best = (-1.0, 0.0, np.empty(0))
    for c in TFIDF_GRID:
        model = LogisticRegression(C=c, solver="liblinear", random_state=0).fit(train, target)
        found = auroc(held_target, model.decision_function(held))
        if found > best[0]:
            best = (found, c, model.decision_function(test))
    return best[2], {"C": best[1], "validation_auroc": best[0]}


BASELINES: Final[Mapping[str, Callable[[Store], Scored]]] = {
    CONFIDENCE: confidence,
    PROMPT_LENGTH: prompt_length,
    TFIDF: tfidf,
}


def _margin(example: Example) -> float:
    if example.choice is None:
        msg = f"example {example.id} has no choices; its confidence is not a margin between choices"
        raise ScoreError(msg)
    return example.choice.margin


def _likelihood(store: Store, split: str, how: str) -> Floats:
    """The log-likelihood of each response, in nats; an empty one is the least of all, for it says nothing."""
    written = store.column("tokens", split) - store.column("prompt_tokens", split)
    logprob = store.column("response_logprob", split).astype(np.float64)
    values = logprob / np.maximum(written, 1) if how == "mean" else logprob
    return np.where(written == 0, values.min() - 1, values)
