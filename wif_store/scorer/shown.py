"""Examples for a person to read: those of the test split that a method gets most wrong, and most right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from wif_store.scorer.results import CONFIDENCE, Shown, TaskResult, TaskScores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wif_store.format.schema import Example
    from wif_store.scorer.features import Store

EACH: Final = 10
"""Examples of each kind."""


def shown(store: Store, task: TaskResult, scores: TaskScores) -> Iterator[Shown]:
    """The examples on which the best method is most wrong, then those on which it is most right.

    How wrong a method is on an example is the share of test examples that it ranks below a failure, or above
    a success.
    """
    method = best_method(task)
    examples = store.examples("test")
    said = scores.scores[method][-len(examples) :]
    share = np.argsort(np.argsort(said, kind="stable"), kind="stable") / max(1, len(said) - 1)
    success = np.array([example.success for example in examples])
    wrong = np.where(success == 1, 1 - share, share)
    order = np.argsort(-wrong, kind="stable").tolist()
    half = min(EACH, len(order) // 2)
    for is_wrong, rows in ((True, order[:half]), (False, order[::-1][:half])):
        for row in rows:
            one = examples[row]
            answer, expected = answers(one)
            yield Shown(
                store.task,
                method,
                is_wrong,
                one.id,
                one.success,
                float(said[row]),
                one.prompt,
                answer,
                expected,
            )


def best_method(task: TaskResult) -> str:
    """The method with the best validation AUROC; the first predictions where nothing was fitted."""
    found = {c.probe: c.best.validation_auroc for c in task.curves if c.best.validation_auroc is not None}
    if not found:
        return task.curves[0].probe if task.curves else CONFIDENCE
    held = (task.baseline(CONFIDENCE).settings or {}).get("validation_auroc", 0.0)
    return max({**found, CONFIDENCE: held}.items(), key=lambda item: item[1])[0]


def answers(example: Example) -> tuple[str, str]:
    """What the model answered, and what would have been right."""
    if example.choice is not None:
        choice = example.choice
        return choice.choices[choice.prediction], choice.choices[choice.gold]
    if example.response is not None:
        return example.response.response, next(iter(example.response.targets), "")
    return "", ""
