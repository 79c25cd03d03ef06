"""The tasks of the evaluation harness (lm-eval) by their names: its prompts, its verdicts, our residuals.

Prompts come of a task's own ``build_all_requests`` and the verdict of its own ``process_results``: nothing of
either is written again here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import SourceError, TaskError, one_line
from wif_store.tasks.base import (
    Candidate,
    Protocol,
    Request,
    Row,
    Task,
    digest,
    group_digest,
)
from wif_store.tasks.harness_registry import (
    VERDICTS,
    Splits,
    built,
    expanded,
    filter_of,
    filtered,
    generation_of,
    loaded,
    metric_of,
    output_type,
    version,
)
from wif_store.tasks.judges import Answer, Judge, Verdict

if TYPE_CHECKING:
    from wif_store.tasks.rows import Named

PREFIX: Final = "lm_eval-"
FEWSHOT_SEED: Final = 1234
"""With which the harness draws few-shot examples."""
MOST: Final = 127
"""Choices, at most: the table of examples counts them in a byte."""


@dataclass(frozen=True, slots=True)
class Spec:
    """Which task of the harness, and how: small and picklable.

    Attributes:
        name: What the harness calls it.
        fewshot: Examples before each prompt; None for as many as the task says.
        metric: What is taken for the verdict.
        filter: The filter that responses go through.
    """

    name: str
    fewshot: int | None
    metric: str
    filter: str


@dataclass(frozen=True, slots=True)
class HarnessVerdict:
    """The verdict of the harness's ``process_results`` on an answer to one of its documents."""

    spec: Spec
    doc: Mapping[str, Any]

    def __call__(self, answer: Answer) -> Verdict:
        """Ask the task.

        Raises:
            TaskError: If it cannot say, or says something else than yes or no.
        """
        task, doc = _judging(self.spec, self.doc), dict(self.doc)
        try:
            if answer.response is None:
                # Whether a choice is what the model would write by itself is not computed.
                results: list[Any] = [(logprob, False) for logprob in answer.logprobs]
                text = ""
            else:
                results = [filtered(task, self.spec.filter, answer.response, doc)]
                text = results[0] if isinstance(results[0], str) else str(results[0])
            value = task.process_results(doc, results)[self.spec.metric]
        except Exception as error:
            # What a task does with an answer is its own: each failure becomes one line.
            found = f"{type(error).__name__}: {one_line(error)}"
            msg = f"{self.spec.name}: the harness gives no {self.spec.metric} of an answer ({found})"
            raise TaskError(msg) from None
        if value not in (0, 1):
            msg = (
                f"{self.spec.name}: {self.spec.metric} of an answer is {value!r:.40}; expected a verdict, "
                "0 or 1: choose another --metric"
            )
            raise TaskError(msg)
        return Verdict(bool(value), text)


class HarnessTask(Task):
    """One task of the harness.

    Args:
        spec: Which, and how.
        task: The harness's own object.
        record: Where its documents are from.
    """

    source = None
    builtin = ""
    fields: Mapping[str, Any] = {"doc": Mapping}

    def __init__(self, spec: Spec, task: Any, record: Mapping[str, Any]) -> None:
        self.spec, self._task, self._record = spec, task, record
        self.name = PREFIX + spec.name
        if task.OUTPUT_TYPE == "generate_until":
            protocol = Protocol("harness", "{context}", "", site="response", generation=generation_of(task))
        else:
            # Where contexts differ from choice to choice, there is none that all share.
            site: Any = "preferred" if task.multiple_input else "context"
            protocol = Protocol("harness", "{context}", "{continuation}", site=site)
        self.protocols = (protocol,)

    def rows(self) -> tuple[Named, dict[str, Any]]:
        """The documents with their requests, and where they are from."""
        task = self._task
        # The seed of the harness's own runs: few-shot examples are drawn from document to document.
        task.set_fewshot_seed(FEWSHOT_SEED)
        try:
            task.build_all_requests()
        except Exception as error:
            found = f"{type(error).__name__}: {one_line(error)}"
            msg = f"{self.spec.name}: the harness cannot make requests of its documents ({found})"
            raise SourceError(msg) from None
        asked: dict[int, list[Any]] = {}
        for instance in task.instances:
            asked.setdefault(instance.doc_id, []).append(instance)
        named = (
            (f"{self.spec.name}, document {number + 1}", {"doc": instances[0].doc, "asked": instances})
            for number, instances in asked.items()
        )
        return named, dict(self._record)

    def candidate(self, row: Row, index: int, where: str) -> Candidate:
        """Check one document; see :meth:`wif_store.tasks.base.Task.candidate`."""
        doc, task = row["doc"], self._task
        pairs = [instance.args[:2] for instance in row["asked"]]
        text, target = task.doc_to_text(doc), task.doc_to_target(doc)
        choices = tuple(map(str, task.doc_to_choice(doc))) if task.config.doc_to_choice else ()
        group = group_digest([text] if isinstance(text, str) else choices)
        name = f"{self.name}-{digest([doc])}"
        if task.OUTPUT_TYPE == "generate_until":
            targets = tuple(map(str, target)) if isinstance(target, list | tuple) else (str(target),)
            made: Row = {"doc": doc, "pairs": ((pairs[0][0], ""),)}
            return Candidate(name, index, group, made, targets=targets)
        gold = text if task.multiple_input else target
        first = gold[0] if isinstance(gold, list) and gold else gold
        if isinstance(first, str):
            first = choices.index(first) if first in choices else -1
        fits = isinstance(first, int) and 0 <= first < len(choices) <= MOST
        if not fits or len(pairs) != len(choices):
            msg = (
                f"{where}: found {len(pairs)} requests, {len(choices)} choices and the answer {gold!r:.40}; "
                f"expected a request a choice, one of them right, and at most {MOST}"
            )
            raise SourceError(msg)
        return Candidate(name, index, group, {"doc": doc, "pairs": tuple(pairs)}, choices, first)

    def request(self, candidate: Candidate, protocol: Protocol) -> Request:
        """The requests that the harness makes of the document."""
        return Request(candidate.id, candidate.row["pairs"])

    def judge(self, candidate: Candidate, protocol: Protocol) -> Judge:
        """The task's own ``process_results``."""
        return HarnessVerdict(self.spec, candidate.row["doc"])

    def graded_by(self, protocol: Protocol) -> str:
        """The harness's metric, after its filter."""
        return f"lm_eval: {self.spec.metric}, filter {self.spec.filter}"

    def record(self, protocol: Protocol) -> dict[str, Any]:
        """What opens the same task again, and which version of the harness gave its verdicts."""
        return {
            "verdict": self.spec.metric,
            "harness": {
                **asdict(self.spec),
                "version": version(),
                "task_version": str(self._task.VERSION),
            },
        }


def harness_tasks(
    name: str,
    source: str | None,
    fewshot: int | None = None,
    metric: str | None = None,
    filter_name: str | None = None,
) -> Iterator[HarnessTask]:
    """The tasks of a name of the harness's registry: a task, or all of a group or tag.

    Args:
        name: Of a task, a group or a tag.
        source: What stands in for the dataset of a task: a file or a folder of rows with the same columns.
        fewshot: Examples before each prompt; None for as many as the task says.
        metric: What is taken for the verdict; None for accuracy or exact match.
        filter_name: The filter that responses go through; None for the task's first.

    Raises:
        TaskError: If the harness is not installed, has no such name, or the task gives no verdict.
        SourceError: If its rows cannot be had.
    """
    for one in expanded(name):
        output = output_type(one)
        if output not in VERDICTS:
            msg = (
                f"{one} of the harness is a task of {output}; expected one of: {', '.join(VERDICTS)}, which "
                "give a verdict on each example"
            )
            raise TaskError(msg)
        task, record = loaded(one, fewshot, source)
        spec = Spec(one, fewshot, metric_of(one, task, metric), filter_of(one, task, filter_name))
        _TASKS[spec] = task
        yield HarnessTask(spec, task, record)


def recorded_task(recorded: Mapping[str, Any], source: str | None) -> HarnessTask:
    """The task that a store records, over the rows of a source."""
    given = (recorded["fewshot"], str(recorded["metric"]), str(recorded["filter"]))
    return next(harness_tasks(str(recorded["name"]), source, *given))


_TASKS: Final[dict[Spec, Any]] = {}
"""The harness's objects that this process has loaded. A worker makes its own, for verdicts alone."""


def _judging(spec: Spec, doc: Mapping[str, Any]) -> Any:
    """The harness's object whose verdict is asked for."""
    if spec not in _TASKS:
        import datasets

        # One document is enough for verdicts. It was processed when it was read.
        rows = Splits({"": datasets.Dataset.from_list([dict(doc)])})
        changes = {"custom_dataset": lambda **ignored: rows, "process_docs": None}
        _TASKS[spec] = built(spec.name, changes)
    return _TASKS[spec]
