"""Anyone's rows as a task, without code: a prompt, and what says whether an answer to it is right."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from wif_store.errors import SourceError, TaskError, names_in_line
from wif_store.tasks.base import (
    Candidate,
    Generation,
    Protocol,
    Request,
    Row,
    Task,
    digest,
    group_digest,
    is_unicode,
)
from wif_store.tasks.judges import GoldIs, Judge, LetterIs, Matches, Was, check_grade, check_targets
from wif_store.tasks.multiple_choice import MOST_CHOICES, TRUTH, cot, lettered, letters, mcq
from wif_store.tasks.rows import read_source

if TYPE_CHECKING:
    from collections.abc import Sequence

Form = Literal["choices", "targets", "response"]

FORMS: Final[Mapping[Form, tuple[str, ...]]] = {
    "choices": ("choices", "gold"),
    "targets": ("targets",),
    "response": ("response", "success"),
}
"""The three kinds of rows, by the columns that say what is right."""
SAMPLE: Final = frozenset({"arguments", "resps", "metrics"})
"""What a line of lm-eval's ``samples_*.jsonl`` has, among others."""
OPTIONAL: Final = ("id", "group", "split", "system", "messages")
COLUMNS: Final = ("prompt", *(name for names in FORMS.values() for name in names), *OPTIONAL)

LINE: Final = Generation(stop=("\n",), max_new_tokens=64)
STEPS_TO_ANSWER: Final = "Think step by step. End with a line 'Answer:' and the answer."
PROTOCOLS: Final[Mapping[Form, tuple[Protocol, ...]]] = {
    "choices": (
        Protocol("aligned", context="{prompt}", continuation=" {choice}"),
        mcq("{prompt}"),
        cot("{prompt}"),
    ),
    "targets": (
        Protocol("response", "{prompt}", "", site="response", generation=LINE),
        Protocol("cot", "{prompt}\n" + STEPS_TO_ANSWER + "\n", "", site="response", generation=Generation()),
    ),
    "response": (Protocol("given", "{prompt}", "{response}", site="response"),),
}


@dataclass(frozen=True, slots=True)
class OwnRows(Task):
    """The rows of a file, a folder or a dataset as a task.

    Attributes:
        name: After the file.
        form: What the rows say of the right answer.
        grade: How a response is compared with targets, as ``Matches`` does it.
        columns: What the rows call the columns of this module, where they call them otherwise.
        sample_filter: The filter of rows that lm-eval wrote.
    """

    name: str
    form: Form
    grade: str = "exact"
    columns: tuple[tuple[str, str], ...] = ()
    sample_filter: str = ""

    source = None
    builtin = ""
    fields = dict.fromkeys(COLUMNS)

    @property
    def protocols(self) -> tuple[Protocol, ...]:  # type: ignore[override]
        """Those of its form; the first is the default."""
        return PROTOCOLS[self.form]

    def candidate(self, row: Row, index: int, where: str) -> Candidate:
        """Check one row; see :meth:`wif_store.tasks.base.Task.candidate`."""
        row = self._renamed(row, where)
        if (form := form_of(row, where)) != self.form:
            msg = f"{where}: a row with {form} among rows with {self.form}; expected one kind in a source"
            raise SourceError(msg)
        try:
            *before, (_, prompt) = _turns(row)
            right = self._right(row)
            key = [before, prompt, *(list(right[n]) for n in ("choices",) if n in right)]
            key += [row["response"]] if self.form == "response" else []
            own, split = row.get("id"), row.get("split")
            return Candidate(
                id=f"{self.name}-{digest(key)}" if own is None else _printable("id", own),
                source_row=index,
                group=group_digest([row.get("group", prompt)]),
                row={**row, "prompt": prompt, "before": tuple(before)},
                published_split=None if split is None else _text("split", split),
                content="" if own is None else digest(key),
                **right,
            )
        except ValueError as error:
            msg = f"{where}: {error}"
            raise SourceError(msg) from None

    def _right(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What is right, as the fields of a candidate: of a response, whether it was, as ``gold`` 1 or 0."""
        if self.form == "choices":
            choices = tuple(_texts("choices", row["choices"]))
            if not 2 <= len(choices) <= MOST_CHOICES:
                found = f"the choices are {list(choices)!r:.80}"
                msg = f"{found}; expected two texts or more, up to {MOST_CHOICES}"
                raise ValueError(msg)
            return {"choices": choices, "gold": _gold(row["gold"], choices)}
        if self.form == "targets":
            targets = tuple(_texts("targets", row["targets"]))
            check_targets(targets, self.grade)
            return {"targets": targets}
        _text("response", row["response"])
        success = TRUTH.meant(row["success"])
        if not isinstance(success, bool):
            msg = f"success is {row['success']!r:.40}; expected true or false"
            raise ValueError(msg)
        return {"gold": int(success)}

    def request(self, candidate: Candidate, protocol: Protocol) -> Request:
        """What the model is asked: the prompt, and what is scored or was written after it."""
        row, choices = candidate.row, candidate.choices
        signs = letters(len(choices))
        context = protocol.context.format(prompt=row["prompt"], options=lettered(choices))
        if protocol.site == "response":
            written = protocol.continuation.format(response=row.get("response") or "")
            pairs: tuple[tuple[str, str], ...] = ((context, written),)
        else:
            pairs = tuple(
                (context, protocol.continuation.format(choice=choice, letter=letter))
                for choice, letter in zip(choices, signs, strict=True)
            )
        return Request(candidate.id, pairs, before=row["before"])

    def judge(self, candidate: Candidate, protocol: Protocol) -> Judge:
        """By the gold choice, its letter, the targets, or the verdict that the row carries."""
        if self.form == "response":
            return Was(candidate.gold == 1, candidate.row["response"])
        if self.form == "targets":
            return Matches(candidate.targets, self.grade, reasoned=protocol.name == "cot")
        if protocol.site == "response":
            return LetterIs(letters(len(candidate.choices))[candidate.gold])
        return GoldIs(candidate.gold)

    def graded_by(self, protocol: Protocol) -> str:
        """How a response is compared, in a word or two."""
        return {"choices": "letter", "targets": self.grade, "response": "given"}[self.form]

    def record(self, protocol: Protocol) -> dict[str, Any]:
        """What opens the same task again."""
        return {"rows": {"form": self.form, "grade": self.grade, "columns": dict(self.columns)}}

    def _renamed(self, row: Row, where: str) -> dict[str, Any]:
        sampled = row.keys() >= SAMPLE
        renamed = of_harness_sample(row, where) if sampled else dict(row)
        if sampled and (found := str(row.get("filter"))) != (self.sample_filter or found):
            msg = (
                f"{where}: the filter is {found} and was {self.sample_filter}: a response stands once for "
                "each filter here; keep the lines of one"
            )
            raise SourceError(msg)
        for name, given in self.columns:
            if given not in row:
                found = names_in_line(sorted(map(str, row)))
                msg = f"{where}: column {given!r} is missing; found {found}: see --columns"
                raise SourceError(msg)
            renamed[name] = row[given]
        there = {name: renamed[name] for name in COLUMNS if renamed.get(name) is not None}
        # An empty field of a table is no value.
        return {name: value for name, value in there.items() if name not in OPTIONAL or value != ""}


def own_rows(spec: str, *, grade: str | None = None, columns: Mapping[str, str] | None = None) -> OwnRows:
    """The task of a source of rows; its first row says of which kind they are.

    Args:
        spec: What ``load_source`` reads.
        grade: How responses are compared with targets.
        columns: What the source calls the columns.

    Raises:
        SourceError: If the source cannot be read, or its first row is of no kind.
        TaskError: If the grade is none, or a column is not known.
    """
    for name in columns or {}:
        if name not in COLUMNS:
            msg = f"--columns names {name!r}; expected some of: {', '.join(COLUMNS)}"
            raise TaskError(msg)
    check_grade(grade or "exact")
    named = tuple(sorted((columns or {}).items()))
    task = OwnRows(name_of(spec), "choices", columns=named)
    rows, _ = read_source(task, spec)
    with closing(rows):
        where, first = next(rows, ("", None))
    if first is None:
        msg = f"{spec} has no rows; expected rows with a prompt and a verdict"
        raise SourceError(msg)
    form = form_of(task._renamed(first, where), where)
    if grade and form != "targets":
        msg = f"--grade compares a response with targets, and {spec} holds rows with {form}: leave it out"
        raise TaskError(msg)
    sample_filter = str(first.get("filter")) if first.keys() >= SAMPLE else ""
    return OwnRows(task.name, form, grade or "exact", named, sample_filter)


def name_of(spec: str) -> str:
    """What a source of rows is called.

    Example:
        >>> name_of("data/my rows.jsonl.gz"), name_of("org/name@v1:config/test")
        ('my-rows', 'name')
    """
    path = spec if Path(spec).exists() else spec.partition(":")[0].partition("@")[0]
    stem = Path(path.rstrip("/")).name
    for _ in range(2):
        stem = re.sub(r"\.(jsonl|ndjson|json|csv|tsv|parquet|gz)$", "", stem)
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.") or "rows"


def form_of(row: Mapping[str, Any], where: str) -> Form:
    """Of which kind a row is.

    Raises:
        SourceError: If it has no prompt, no verdict, or several that may contradict each other.
    """
    if "prompt" not in row and "messages" not in row:
        found_names = names_in_line(sorted(row)) or "none of the columns"
        msg = f"{where}: neither prompt nor messages; found {found_names}: see --columns"
        raise SourceError(msg)
    if "prompt" in row and "messages" in row:
        msg = f"{where}: found both prompt and messages; give one of them"
        raise SourceError(msg)
    found: list[Form] = [form for form, names in FORMS.items() if any(name in row for name in names)]
    if len(found) != 1:
        kinds = ", or ".join(" and ".join(names) for names in FORMS.values())
        have = " and ".join(found) if found else "no verdict"
        msg = f"{where}: found {have}; expected one of: {kinds}"
        raise SourceError(msg)
    if lacking := [name for name in FORMS[found[0]] if name not in row]:
        msg = f"{where}: {lacking[0]} is missing or null; a row with {found[0]} needs it"
        raise SourceError(msg)
    return found[0]


def of_harness_sample(row: Row, where: str) -> dict[str, Any]:
    """A line of lm-eval's ``samples_*.jsonl`` as a row with a response: what was asked, answered and found.

    Raises:
        SourceError: If it is not such a line, or its metrics are no verdict.
    """
    try:
        asked = row["arguments"]
        pairs = [
            [pair["arg_0"], pair["arg_1"]] if isinstance(pair, Mapping) else pair
            for pair in (asked.values() if isinstance(asked, Mapping) else asked)
        ]
        answers = [found[0] for found in row["resps"]]
        verdicts = {name: row[name] for name in row["metrics"] if row.get(name) in (0, 1)}
        if isinstance(answers[0], str):
            prompt, response = pairs[0][0], answers[0]
        else:
            best = max(range(len(answers)), key=lambda i: float(answers[i][0]))
            prompt, response = pairs[best][:2]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        msg = f"{where}: not a line of lm-eval's --log_samples ({type(error).__name__}: {error})"
        raise SourceError(msg) from None
    if not verdicts:
        msg = f"{where}: found no metric that is 0 or 1; expected one of a task with a verdict"
        raise SourceError(msg)
    group = json.dumps(row.get("doc"), sort_keys=True, default=str)
    return {"prompt": prompt, "response": response, "success": next(iter(verdicts.values())), "group": group}


def _turns(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The turns of a chat, of which the last is the prompt."""
    system = [("system", _text("system", row["system"]))] if "system" in row else []
    if "prompt" in row:
        return [*system, ("user", _text("prompt", row["prompt"]))]
    messages = row["messages"]
    if isinstance(messages, str):
        with suppress(ValueError, RecursionError):
            messages = json.loads(messages)
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages) or not messages:
        msg = f"messages is {messages!r:.60}; expected a list of objects with role and content"
        raise ValueError(msg)
    turns = [(_text("role", m.get("role")), _text("content", m.get("content"))) for m in messages]
    if turns[-1][0] != "user":
        msg = f"the last message is the {turns[-1][0]}'s; expected the user's, which is answered"
        raise ValueError(msg)
    return [*system, *turns]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not is_unicode(value):
        msg = f"{name} is {value!r:.60}; expected a text"
        raise ValueError(msg)
    return value


def _printable(name: str, value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(name, value)
    if not text.isprintable():
        msg = f"{name} is {text!r:.60}; expected a printable text"
        raise ValueError(msg)
    return text


def _texts(name: str, value: Any) -> Sequence[str]:
    if isinstance(value, str):
        # A table has no lists: they are JSON in it, or one text.
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        value = parsed if isinstance(parsed, list) else [value]
    if not isinstance(value, list | tuple) or not value:
        msg = f"{name} is {value!r:.60}; expected a list of texts"
        raise ValueError(msg)
    return [_text(f"an entry of {name}", str(one) if isinstance(one, int | float) else one) for one in value]


def _gold(value: Any, choices: Sequence[str]) -> int:
    """The index of the right choice: a number from 0, or the choice itself."""
    if isinstance(value, str):
        number = int(value) if value.strip().isdecimal() else None
        if choices.count(value) == 1 and number in (None, choices.index(value)):
            return choices.index(value)
        if value not in choices and number is not None:
            value = number
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(choices):
        msg = f"gold is {value!r:.60}; expected the number of a choice from 0, or its text"
        raise ValueError(msg)
    return value
