"""What extraction yields: one numpy record per example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wif_store.schema import Float32, Int32

Raw = npt.NDArray[Any]
"""Residuals as the model computed them: bfloat16 as uint16 bits, float32 and float16 as they are."""


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
        token_ids: int32 ``[length]``, the tokens that were read.
        final_token: raw ``[layers, d_model]``, resid_post at the last of them.
        sequence: raw ``[sequence_layers, length, d_model]``, resid_post at each of them.
    """

    id: str
    logprobs: npt.NDArray[np.float64]
    choice_tokens: Int32
    prediction: int
    prompt: str
    cut: int
    token_ids: Int32
    final_token: Raw
    sequence: Raw


def widen(raw: Raw) -> Float32:
    """Raw residuals -> float32, exactly: every bfloat16 and float16 value is a float32 value."""
    if raw.dtype == np.uint16:
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)
