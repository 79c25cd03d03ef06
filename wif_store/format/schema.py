"""The nouns of a store: what an example is, which columns and arrays there are, which format this is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT: Final = "wif-store"
FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
METADATA: Final = "zarr.json"
TABLE: Final = "examples.parquet"
"""The table of examples of a split, below the split's group."""

SPLITS: Final = ("train", "validation", "test")

FINAL_TOKEN: Final = "final_token"
PROMPT_END: Final = "prompt_end"
SEQUENCE: Final = "sequence"

SITES: Final = {
    FINAL_TOKEN: "the last token of what is read",
    PROMPT_END: "the last token of the prompt, before the first that was written",
}
"""The sites at which every layer may be read, and what they are: arrays of one vector a layer and example."""

RESIDUAL_COLUMN: Final = "resid_post_"
"""What the column of a layer is called in tables, followed by the layer."""

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Int8 = npt.NDArray[np.int8]

Outcome = Literal["choice", "response"]
"""How the model answered: by preferring one of given choices, or by writing a response."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table of examples: its name, its Arrow type in words, and its meaning."""

    name: str
    type: str
    description: str


COMMON: Final = (
    Column("id", "string", "stable id, a hash of the fields that form the prompt"),
    Column("task", "string", "the task it belongs to"),
    Column("group", "string", "what siblings share; seeded splits never divide a group"),
    Column("source_row", "int64", "0-based row of the source"),
    Column("prompt", "string", "the exact text whose residuals are stored"),
    Column("success", "int8", "1 where the model is right, else 0: what a probe is to predict"),
    Column("tokens", "int32", "how many tokens were read"),
    Column("final_token_position", "int32", "index of the final token among them"),
    Column("cut_tokens", "int32", "tokens that the prompt lost to the protocol's limit"),
)
OUTCOMES: Final[Mapping[str, tuple[Column, ...]]] = {
    "choice": (
        Column("choices", "list<string>", "the answers to choose from"),
        Column("gold", "int8", "index of the right choice"),
        Column("prediction", "int8", "index of the choice the model prefers"),
        Column("choice_logprobs", "list<float64>", "summed log-likelihood of each choice, in nats"),
        Column("choice_tokens", "list<int32>", "tokens that each log-likelihood runs over"),
    ),
    "response": (
        Column("response", "string", "the text that the model wrote"),
        Column("targets", "list<string>", "the answers that count as right"),
        Column("answer", "string", "the answer that was extracted from the response"),
        Column("graded_by", "string", "how the answer was compared with the targets"),
        Column("finish_reason", "string", "why the model stopped writing"),
        Column("success_rate", "float64", "share of the samples that are right"),
        Column("response_logprob", "float64", "summed log-likelihood of the response, in nats"),
        Column("least_logprob", "float64", "log-likelihood of its least likely token; 0 of an empty one"),
        Column("prompt_tokens", "int32", "tokens of the prompt, which the response follows"),
    ),
}


def columns(outcome: str) -> tuple[Column, ...]:
    """The columns of the table of examples, by the kind of outcome.

    Example:
        >>> [column.name for column in columns("choice")][-2:]
        ['choice_logprobs', 'choice_tokens']
    """
    return (*COMMON, *OUTCOMES[outcome])


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of a store: its name, type, dimensions and meaning."""

    name: str
    dtype: str
    dims: tuple[str, ...]
    description: str


COORDINATES: Final = {
    spec.name: spec
    for spec in (
        ArraySpec("layer", "int64", ("layer",), "0-based decoder layer of each row of final_token"),
        ArraySpec(
            "sequence_layer", "int64", ("sequence_layer",), "0-based decoder layer of each row of sequence"
        ),
    )
}
"""Arrays of the root group, which the groups of the splits inherit."""

ARRAYS: Final = {
    spec.name: spec
    for spec in (
        ArraySpec(FINAL_TOKEN, "float32", ("layer", "example", "d_model"), "resid_post at the final token"),
        ArraySpec(PROMPT_END, "float32", ("layer", "example", "d_model"), "resid_post at the prompt's end"),
        ArraySpec(SEQUENCE, "float32", ("sequence_layer", "token", "d_model"), "resid_post at every token"),
        ArraySpec("offsets", "int64", ("boundary",), "example i has the tokens offsets[i]:offsets[i+1]"),
        ArraySpec("token_ids", "int32", ("token",), "the tokens that were read, examples end to end"),
        ArraySpec("success", "int8", ("example",), "1 where the model is right, else 0"),
    )
}
"""Arrays of the group of a split."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The outcome of an example whose answer is one of given choices.

    ``choice_logprobs`` are summed log-likelihoods in nats, ``choice_tokens`` the number of tokens each sum
    runs over.
    """

    choices: tuple[str, ...]
    gold: int
    prediction: int
    choice_logprobs: tuple[float, ...]
    choice_tokens: tuple[int, ...]

    @property
    def margin(self) -> float:
        """The margin in nats between the model's best two choices."""
        best, second = sorted(self.choice_logprobs, reverse=True)[:2]
        return best - second


@dataclass(frozen=True, slots=True)
class Response:
    """The outcome of an example whose answer the model wrote; the log-likelihoods are in nats."""

    response: str
    targets: tuple[str, ...]
    answer: str
    graded_by: str
    finish_reason: str
    success_rate: float
    response_logprob: float
    least_logprob: float
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Example:
    """One example of a store, without its residuals.

    ``token_ids`` (int32, ``[tokens]``) is the sequence whose residuals are stored; its final token stands at
    ``final_token_position``. One of ``choice`` and ``response`` is there, as the manifest's ``outcome`` says.
    """

    id: str
    task: str
    group: str
    split: str
    source_row: int
    prompt: str
    success: int
    tokens: int
    final_token_position: int
    cut_tokens: int
    token_ids: Int32
    choice: Choice | None = None
    response: Response | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a store holds and how it came to be: the parsed ``manifest.json``.

    The sections are plain JSON objects, described in ``docs/format.md``. ``files`` maps each file's
    path below the store to its size in bytes and its SHA-256.
    """

    task: str
    outcome: str
    protocol: Mapping[str, Any]
    model: Mapping[str, Any]
    source: Mapping[str, Any]
    selection: Mapping[str, Any]
    splits: Mapping[str, Mapping[str, int]]
    layers: Mapping[str, Sequence[int]]
    sites: Mapping[str, str]
    audit: Mapping[str, Any]
    batching: Mapping[str, Any]
    versions: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def examples(self) -> int:
        """How many examples the store has, over all splits."""
        return sum(split["examples"] for split in self.splits.values())

    @property
    def model_name(self) -> str:
        """The model with its revision, and with its adapter if it has one. Stores of one model share it."""
        adapter = self.model.get("adapter")
        named = [self.model, *([adapter] if adapter else [])]
        return " + ".join(f"{one['id']} @ {one['revision']}" for one in named)


def residual_columns(layers: Sequence[int], n_layers: int) -> list[str]:
    """The names of the layers' columns; their numbers are as wide as that of the model's last layer.

    Example:
        >>> residual_columns([4, 9], 26)
        ['resid_post_04', 'resid_post_09']
    """
    width = max(2, len(str(n_layers - 1)))
    return [f"{RESIDUAL_COLUMN}{layer:0{width}d}" for layer in layers]
