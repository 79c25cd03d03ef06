"""A reader of explanations: a language model that says whether another one answers a question right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import ScoreError
from wif_store.explainer.explanation import check_quotes
from wif_store.records import Lengths
from wif_store.tasks.base import Protocol, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wif_store.explainer.explanation import Explanation
    from wif_store.format.schema import Example
    from wif_store.records import Extract
    from wif_store.scorer.features import Store

PROTOCOL: Final = Protocol("predictor", "{context}", "{continuation}", site="context")
"""How the reader is asked: two continuations of one context."""
ANSWERS: Final = (" yes", " no")
BLOCK: Final = 64
"""Questions that are asked together."""

WITHOUT: Final = "no explanation"


class Predictions(dict[str, float]):
    """Scores by example id, with the name of the method."""

    name: str

    def __init__(self, name: str, scores: dict[str, float]) -> None:
        super().__init__(scores)
        self.name = name


@dataclass(frozen=True, slots=True)
class Reader:
    """A language model that is shown an explanation and a question, and nothing else.

    Attributes:
        name: What the model is called.
        extract: Runs it under :data:`PROTOCOL`.
        told: Called with how many of how many questions are answered.
    """

    name: str
    extract: Extract
    told: Callable[[int, int], None] | None = None

    def ask(self, examples: Sequence[Example], explanation: str | None) -> dict[str, float]:
        """The probability of "yes" among "yes" and "no", by example id.

        Raises:
            ScoreError: If the explanation with a question is longer than the model reads.
        """
        requests = [self._request(example, explanation) for example in examples]
        if isinstance(self.extract, Lengths) and any(self.extract.too_long(requests)):
            msg = (
                f"the explanation with the longest question is longer than {self.name} reads: shorten it, or "
                "name another --predictor"
            )
            raise ScoreError(msg)
        found: dict[str, float] = {}
        for start in range(0, len(requests), BLOCK):
            for record in self.extract(requests[start : start + BLOCK]):
                yes, no = record.logprobs.tolist()
                found[record.id] = 1 / (1 + math.exp(min(no - yes, 700.0)))
            if self.told:
                self.told(len(found), len(requests))
        return found

    def _request(self, example: Example, explanation: str | None) -> Request:
        context = question(example, explanation)
        return Request(example.id, tuple((context, answer) for answer in ANSWERS))


def question(example: Example, explanation: str | None) -> str:
    """What the reader is shown: the explanation, if there is one, and the question."""
    parts = [] if explanation is None else [explanation.strip()]
    parts.append(f"A language model is given this:\n{example.prompt.strip()}")
    if example.choice is not None:
        options = "\n".join(f"- {choice.strip()}" for choice in example.choice.choices)
        parts.append(f"It chooses one of these answers:\n{options}")
    parts.append("Will its answer be right? Say yes or no.\nAnswer:")
    return "\n\n".join(parts)


def check(stores: Sequence[Store], explanations: Sequence[Explanation]) -> None:
    """Refuse explanations that do not fit some stores, before a model is asked.

    Raises:
        ScoreError: If a store has no explanation or two, or one quotes a test example.
    """
    for store in stores:
        _own(store, stores, explanations)
        for explanation in explanations:
            check_quotes(explanation, store)


def predictions(
    stores: Sequence[Store], explanations: Sequence[Explanation], reader: Reader
) -> list[Predictions]:
    """What a reader says of the test examples: with their task's explanation, with none, and with another.

    Args:
        stores: One a task.
        explanations: One a task, and further ones; one without a task is for the only store. Where there is
            one of another task, the reader is asked with it too, as a control.
        reader: Who is asked.

    Raises:
        ScoreError: If a store has no explanation or two, or one quotes a test example, or is too long.
    """
    check(stores, explanations)
    own = [_own(store, stores, explanations) for store in stores]
    others = [next((e for e in explanations if e.task and e.task != store.task), None) for store in stores]
    asked: list[tuple[str, list[str | None]]] = [
        ("explanation", [one.text for one in own]),
        (WITHOUT, [None] * len(stores)),
    ]
    if all(other is not None for other in others):
        asked.append(("explanation of another task", [other.text for other in others if other]))
    found = []
    for name, texts in asked:
        scores: dict[str, float] = {}
        for store, text in zip(stores, texts, strict=True):
            scores |= reader.ask(store.examples("test"), text)
        found.append(Predictions(f"{reader.name}, {name}", scores))
    return found


def _own(store: Store, stores: Sequence[Store], explanations: Sequence[Explanation]) -> Any:
    held = [e for e in explanations if e.task == store.task or (not e.task and len(stores) == 1)]
    if len(held) != 1:
        tasks = ", ".join(e.task or e.name for e in explanations) or "none"
        msg = (
            f"found {len(held)} explanations of task {store.task!r} (given: {tasks}); expected one: the head "
            "of the file says its task"
        )
        raise ScoreError(msg)
    return held[0]
