"""The nouns of a store: what an example is, what the arrays are called, which format this is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT: Final = "wif-store"
FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"

SPLITS: Final = ("train", "validation", "test")
# A class fills its splits by this cycle, in visit order: 50/25/25 after any four examples,
# known as soon as an example is accepted, and blind to how many will follow.
SPLIT_CYCLE: Final = ("train", "validation", "train", "test")

FINAL_TOKEN: Final = "final_token"
SEQUENCE: Final = "sequence"

RESIDUAL_COLUMN: Final = "resid_post_"
"""What the column of a layer is called in tables, followed by the layer."""

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Int8 = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of a store: its name, type, dimensions and meaning."""

    name: str
    dtype: str
    dims: tuple[str, ...]
    description: str


ARRAYS: Final = {
    spec.name: spec
    for spec in (
        ArraySpec(FINAL_TOKEN, "float32", ("layer", "example", "d_model"), "resid_post at the final token"),
        ArraySpec(SEQUENCE, "float32", ("sequence_layer", "token", "d_model"), "resid_post at every token"),
        ArraySpec("layer", "int64", ("layer",), "0-based decoder block of each row of final_token"),
        ArraySpec(
            "sequence_layer", "int64", ("sequence_layer",), "0-based decoder block of each row of sequence"
        ),
        ArraySpec("offsets", "int64", ("boundary",), "example i has the tokens offsets[i]:offsets[i+1]"),
        ArraySpec("token_ids", "int32", ("token",), "the tokens that were read, examples end to end"),
        ArraySpec(
            "final_token_position", "int32", ("example",), "index of the final token within its sequence"
        ),
        ArraySpec("example_id", "string", ("example",), "stable id, a hash of the prompt-forming fields"),
        ArraySpec("source_row", "int64", ("example",), "0-based row of the source"),
        ArraySpec("split", "int8", ("example",), "0 train, 1 validation, 2 test"),
        ArraySpec("prompt", "string", ("example",), "the exact text that was read"),
        ArraySpec(
            "choices", "string", ("example", "choice"), "the answers to choose from; empty past n_choices"
        ),
        ArraySpec("n_choices", "int8", ("example",), "how many choices the example has"),
        ArraySpec("gold", "int8", ("example",), "index of the right choice"),
        ArraySpec("prediction", "int8", ("example",), "index of the choice the model prefers"),
        ArraySpec("success", "int8", ("example",), "1 where prediction equals gold, else 0"),
        ArraySpec(
            "choice_logprob",
            "float64",
            ("example", "choice"),
            "summed log-likelihood in nats; NaN past n_choices",
        ),
        ArraySpec("choice_tokens", "int32", ("example", "choice"), "tokens in each scored continuation"),
        ArraySpec("cut_tokens", "int32", ("example",), "tokens that the prompt lost to the protocol's limit"),
    )
}


@dataclass(frozen=True, slots=True)
class Example:
    """One example of a store, without its activations.

    ``choice_logprobs`` are summed log-likelihoods in nats and ``choice_tokens`` the number of tokens
    each sum runs over. ``token_ids`` (int32, ``[length]``) is the sequence whose residuals are
    stored; its final token stands at ``final_token_position``.
    """

    id: str
    task: str
    split: str
    source_row: int
    prompt: str
    choices: tuple[str, ...]
    gold: int
    prediction: int
    success: int
    choice_logprobs: tuple[float, ...]
    choice_tokens: tuple[int, ...]
    final_token_position: int
    token_ids: Int32

    @property
    def confidence(self) -> float:
        """The margin in nats between the model's best two choices."""
        best, second = sorted(self.choice_logprobs, reverse=True)[:2]
        return best - second


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a store holds and how it came to be: the parsed ``manifest.json``.

    The sections are plain JSON objects, described in ``docs/format.md``. ``files`` maps each file's
    path below the store to its size in bytes and its SHA-256.
    """

    task: str
    protocol: Mapping[str, Any]
    model: Mapping[str, Any]
    source: Mapping[str, Any]
    selection: Mapping[str, Any]
    splits: Mapping[str, Mapping[str, int]]
    audit: Mapping[str, Any]
    batching: Mapping[str, Any]
    versions: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]]


def residual_columns(layers: Sequence[int], n_layers: int) -> list[str]:
    """The names of the layers' columns; their numbers are as wide as that of the model's last block."""
    width = max(2, len(str(n_layers - 1)))
    return [f"{RESIDUAL_COLUMN}{layer:0{width}d}" for layer in layers]
