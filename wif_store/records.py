"""The seam between a model and a store: requests go in, one numpy record per example comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from wif_store.format.schema import FINAL_TOKEN
from wif_store.tasks.judges import Answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from wif_store.format.schema import Float32, Int32
    from wif_store.tasks.base import Request

Raw = npt.NDArray[Any]
"""Residuals as the model computed them: bfloat16 as uint16 bits, float32 and float16 as they are."""


@dataclass(frozen=True, slots=True)
class Written:
    """What the model wrote after a prompt.

    Attributes:
        text: The response.
        finish_reason: ``stop`` at a stop string or the end token, ``length`` at the most tokens, ``given``
            where it was written elsewhere.
        others: Further samples.
        least_logprob: Log-likelihood in nats of its least likely token; 0 where there is none.
    """

    text: str
    finish_reason: str
    others: tuple[str, ...] = ()
    least_logprob: float = 0.0


@dataclass(frozen=True, slots=True)
class Record:
    """One scored and read example.

    Attributes:
        id: The example's id.
        logprobs: float64 ``[choices]``, summed log-likelihoods in nats.
        choice_tokens: int32 ``[choices]``, tokens in each continuation.
        prediction: Index of the largest log-likelihood; the first of equals.
        prompt: The text that was read.
        cut: Tokens that the prompt lost to the protocol's limit.
        cost: Tokens that the model ran for it.
        token_ids: int32 ``[length]``, the tokens that were read.
        final_token: raw ``[layers, d_model]``, resid_post at the last of them.
        sequence: raw ``[sequence_layers, length, d_model]``, resid_post at each of them.
        answer_mass: Probability mass of the scored answers where they are scored after one context; else NaN.
        prompt_end: raw ``[layers, d_model]``, resid_post at the last token of the prompt, where a response
            follows it.
        written: The response, if the model wrote one.
        context_states: float32 ``[contexts, d_model]``, the states after the final norm from which the first
            token after each context is predicted; none of them where nobody asks.
        batch_tokens: How many tokens a batch of its block had at most, where batches as large as planned did
            not fit into memory; 0 where they did.
    """

    id: str
    logprobs: npt.NDArray[np.float64]
    choice_tokens: Int32
    prediction: int
    prompt: str
    cut: int
    cost: int
    token_ids: Int32
    final_token: Raw
    sequence: Raw
    answer_mass: float = math.nan
    prompt_end: Raw | None = None
    written: Written | None = None
    context_states: Float32 | None = None
    batch_tokens: int = 0

    @property
    def answer(self) -> Answer:
        """What a judge is shown."""
        return Answer(
            self.prediction, tuple(self.logprobs.tolist()), self.written.text if self.written else None
        )

    @property
    def vectors(self) -> Raw:
        """What is read at single tokens: raw ``[sites * layers, d_model]``, site by site."""
        if self.prompt_end is None:
            return self.final_token
        return np.concatenate([self.final_token, self.prompt_end])


class Extract(Protocol):
    """What a build needs of the extraction room: requests in, records out, in the same order."""

    def __call__(self, requests: Sequence[Request]) -> list[Record]:
        """Score and read one block of requests."""
        ...


@runtime_checkable
class Lengths(Extract, Protocol):
    """One that knows which requests are longer than the model's context."""

    def too_long(self, requests: Sequence[Request]) -> list[bool]:
        """For each request, whether the model cannot read it whole."""
        ...


@runtime_checkable
class Stream(Extract, Protocol):
    """One that does better when it knows what comes next."""

    def stream(self, blocks: Iterable[Sequence[Request]]) -> Iterator[list[Record]]:
        """Score and read block after block; may take up some before it has given back those before."""
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """A model ready to extract: the callable, and what the store records of it."""

    extract: Extract
    model: dict[str, Any]
    batching: dict[str, Any]
    versions: dict[str, str]
    layers: tuple[int, ...]
    sequence_layers: tuple[int, ...]
    d_model: int
    sites: tuple[str, ...] = (FINAL_TOKEN,)


def widen(raw: Raw) -> Float32:
    """Raw residuals -> float32, exactly: every bfloat16 and float16 value is a float32 value."""
    if raw.dtype == np.uint16:
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)


def narrow(values: Float32, dtype: str) -> Raw:
    """float32 as it stands in a store -> raw residuals of the type that the model computed in.

    Those of float16 stay as they are, for their chunks are made of float32 anyway.
    """
    return (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else values
