"""What ``--task`` may name: a task of the registry, one of the harness's, or a source of anyone's rows."""

from __future__ import annotations

import difflib
from collections.abc import Mapping  # noqa: TC003
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wif_store.errors import StoreError, TaskError
from wif_store.tasks import TASKS, get_task, names
from wif_store.tasks.files import kind_of
from wif_store.tasks.own_rows import FORMS, OwnRows, own_rows

if TYPE_CHECKING:
    from wif_store.format.schema import Manifest
    from wif_store.tasks.base import Protocol, Task

HARNESS = "lm_eval/"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What a caller decides about a task, beside its rows; None leaves it to the task.

    Attributes:
        protocol: The name of one of its protocols.
        cot: Ask for steps before the answer: the protocol ``cot``.
        grade: How responses to own rows are compared with targets.
        columns: What own rows call their columns.
        fewshot: Examples before each prompt of a harness task.
        metric: The verdict of a harness task.
        filter: The filter of a harness task, through which its responses go.
        stop: What ends a response.
        max_new_tokens: Of a response, at most.
        temperature: 0 takes the likeliest token each time.
        samples: Responses to each prompt.
    """

    protocol: str | None = None
    cot: bool = False
    grade: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    fewshot: int | None = None
    metric: str | None = None
    filter: str | None = None
    stop: tuple[str, ...] | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    samples: int | None = None

    def protocol_of(self, task: Task, seed: int) -> Protocol:
        """The protocol of a task, with what the caller decides about it.

        Raises:
            TaskError: If the task has no such protocol, or nothing is written under it.
        """
        if self.cot and self.protocol not in (None, "cot"):
            msg = f"--cot is the protocol cot, and --protocol is {self.protocol}: leave one of them out"
            raise TaskError(msg)
        name = "cot" if self.cot else self.protocol
        found = task.protocols[0] if name is None else task.protocol(name)
        given: dict[str, Any] = {
            "stop": self.stop,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "samples": self.samples,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if found.generation is None:
            if given:
                option = "--" + next(iter(given)).replace("_", "-")
                msg = (
                    f"{option} is for answers that the model writes, and it writes none under protocol "
                    f"{found.name} of {task.name}: leave it out"
                )
                raise TaskError(msg)
            return found
        made: Any = replace(found.generation, seed=seed, **given)
        if made.max_new_tokens < 1 or made.samples < 1 or not 0 <= made.temperature < 100:
            msg = (
                f"--max-new-tokens {made.max_new_tokens}, --samples {made.samples}, --temperature "
                f"{made.temperature:g}: expected at least 1, at least 1 and 0 or more"
            )
            raise TaskError(msg)
        if made.samples > 1 and not made.temperature:
            msg = (
                f"--samples {made.samples} would be the same answer each time: pass --temperature, as in 0.7"
            )
            raise TaskError(msg)
        # Nothing is drawn at temperature 0.
        return replace(found, generation=made if made.temperature else replace(made, seed=0))


def find_tasks(spec: str, options: TaskOptions, source: str | None) -> list[Task]:
    """The tasks that a text names.

    Args:
        spec: ``all``, a registered task, ``lm_eval/NAME``, or what ``load_source`` reads: a file, a folder, a
            glob or a dataset on the Hub with rows of anyone's.
        options: What the caller decides about them.
        source: The rows that stand in for those of a harness task.

    Raises:
        TaskError: If there is no such task, or an option does not suit it.
        SourceError: If the rows cannot be read.
    """
    ours = list(TASKS.values()) if spec == "all" else [get_task(spec)] if spec in names() else []
    harness = spec.startswith(HARNESS)
    rows = not ours and not harness
    _check_suits(options, spec, harness=harness, rows=rows)
    if ours:
        return ours
    if harness:
        from wif_store.tasks.harness import harness_tasks

        name = spec.removeprefix(HARNESS)
        return list(harness_tasks(name, source, options.fewshot, options.metric, options.filter))
    path = Path(spec.partition(":")[0]).expanduser()
    if not (path.exists() or kind_of(path) or "/" in spec or any(sign in spec for sign in "*?[")):
        near = difflib.get_close_matches(spec, names(), n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        msg = (
            f"no task {spec!r}; {hint}expected one of: {', '.join(names())}, all, lm_eval/NAME "
            "(`wif-store tasks` lists them), or a file of your own rows"
        )
        raise TaskError(msg)
    if source is not None:
        msg = f"--task {spec} names the rows, and --source {source} too: leave --source out"
        raise TaskError(msg)
    return [own_rows(spec, grade=options.grade, columns=options.columns)]


def task_of(manifest: Manifest, source: str | None) -> Task | None:
    """The task that a store was built of; None where it is not known here.

    Raises:
        StoreError: If what the store says of it cannot be used.
    """
    if manifest.task in names() and not {"rows", "harness"} & manifest.protocol.keys():
        return get_task(manifest.task)
    try:
        if "rows" in manifest.protocol:
            recorded = manifest.protocol["rows"]
            columns = tuple(sorted(dict(recorded["columns"]).items()))
            if recorded["form"] not in FORMS:
                msg = f"form {recorded['form']!r}"
                raise ValueError(msg)
            return OwnRows(manifest.task, recorded["form"], str(recorded["grade"]), columns)
        if "harness" in manifest.protocol:
            from wif_store.tasks.harness import recorded_task

            return recorded_task(manifest.protocol["harness"], source)
    except (KeyError, TypeError, ValueError) as error:
        msg = f"what the store says of its task cannot be used ({type(error).__name__}: {error})"
        raise StoreError(msg) from None
    return None


def parse_columns(text: str) -> dict[str, str]:
    """``prompt=question,gold=label`` -> what own rows call their columns.

    Raises:
        TaskError: If it is no such text.

    Example:
        >>> parse_columns("prompt=question, gold=label")
        {'prompt': 'question', 'gold': 'label'}
    """
    columns: dict[str, str] = {}
    for part in filter(str.strip, text.split(",")):
        name, equals, given = (piece.strip() for piece in part.partition("="))
        if not (name and equals and given) or name in columns:
            msg = f"--columns is {text!r}; expected NAME=COLUMN,..., as in prompt=question,gold=label"
            raise TaskError(msg)
        columns[name] = given
    return columns


def _check_suits(options: TaskOptions, spec: str, *, harness: bool, rows: bool) -> None:
    """Refuse options of another kind of task."""
    for kind, suits, given in (
        ("your own rows", rows, {"--grade": options.grade, "--columns": options.columns or None}),
        (
            "tasks of the harness",
            harness,
            {"--fewshot": options.fewshot, "--metric": options.metric, "--filter": options.filter},
        ),
    ):
        for option, value in given.items():
            if value is not None and not suits:
                msg = f"{option} is for {kind}, and --task is {spec}: leave it out"
                raise TaskError(msg)
