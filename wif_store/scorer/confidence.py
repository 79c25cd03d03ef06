"""What a model says of itself: measures of its confidence, from the log-likelihoods that a store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from wif_store.errors import ScoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wif_store.format.schema import Choice, Example, Response
    from wif_store.scorer.features import Store
    from wif_store.scorer.stats import Floats


def margin(choice: Choice) -> float:
    """Of the log-likelihoods of the best two choices, in nats."""
    return choice.margin


def answer_probability(choice: Choice) -> float:
    """Of the preferred choice among the choices, from 0 to 1."""
    return float(_shares(choice).max())


def certainty(choice: Choice) -> float:
    """The entropy over the choices, in nats, with its sign turned: 0 is the most certain."""
    shares = _shares(choice)
    held = shares[shares > 0]
    return float(held @ np.log(held))


def normalised_margin(choice: Choice) -> float:
    """Log-likelihood by token of the preferred choice, less that of the best other one, in nats."""
    by_token = np.array(choice.choice_logprobs) / np.maximum(choice.choice_tokens, 1)
    return float(by_token[choice.prediction] - np.delete(by_token, choice.prediction).max())


def sum_logprob(response: Response, tokens: int) -> float:
    """Log-likelihood of the response, in nats."""
    return response.response_logprob


def mean_logprob(response: Response, tokens: int) -> float:
    """Log-likelihood of the response by token, in nats."""
    return response.response_logprob / max(tokens, 1)


def least_logprob(response: Response, tokens: int) -> float:
    """Log-likelihood of its least likely token, in nats."""
    return response.least_logprob


def brevity(response: Response, tokens: int) -> float:
    """Tokens of the response, with their sign turned: a short answer is trusted more."""
    return -float(tokens)


CHOICE_MEASURES: Final[Mapping[str, Callable[[Choice], float]]] = {
    "margin": margin,
    "answer-probability": answer_probability,
    "entropy": certainty,
    "normalised-margin": normalised_margin,
}
"""Measures of confidence where the model prefers one of given choices; higher is surer."""

RESPONSE_MEASURES: Final[Mapping[str, Callable[[Response, int], float]]] = {
    "sum-logprob": sum_logprob,
    "mean-logprob": mean_logprob,
    "least-logprob": least_logprob,
    "response-length": brevity,
}
"""Measures of confidence in a response, of which a number of tokens is known; higher is surer."""


def measures(store: Store, split: str) -> dict[str, Floats]:
    """Every measure of the model's confidence: float64 ``[n]`` each, higher where it is surer.

    An empty response says nothing, so it is the least sure by each measure but its length.

    Raises:
        ScoreError: If the store has no log-likelihoods.
    """
    examples = store.examples(split)
    if store.manifest.outcome != "response":
        choices = [_choice(example) for example in examples]
        return {name: np.array([measure(c) for c in choices]) for name, measure in CHOICE_MEASURES.items()}
    written = [(e.response, e.tokens - e.response.prompt_tokens) for e in examples if e.response is not None]
    found = {}
    for name, measure in RESPONSE_MEASURES.items():
        values = np.array([measure(response, tokens) for response, tokens in written])
        if name != "response-length":
            empty = np.array([tokens == 0 for _, tokens in written])
            values = np.where(empty, values.min() - 1, values)
        found[name] = values
    return found


def _choice(example: Example) -> Choice:
    if example.choice is None:
        msg = f"example {example.id} has no choices; its confidence is not a margin between choices"
        raise ScoreError(msg)
    return example.choice


def _shares(choice: Choice) -> Floats:
    """Probability of each choice among the choices."""
    logprobs: Sequence[float] = choice.choice_logprobs
    values = np.exp(np.array(logprobs) - max(logprobs))
    shares: Floats = values / values.sum()
    return shares
