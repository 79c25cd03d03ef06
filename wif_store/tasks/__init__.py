"""The registry of tasks. A new task is one file beside these and one line here."""

from __future__ import annotations

from wif_store.errors import TaskError
from wif_store.tasks import boolq, piqa, social_i_qa, winogrande
from wif_store.tasks.base import MultipleChoiceTask

TASKS: dict[str, MultipleChoiceTask] = {
    module.TASK.name: module.TASK for module in (boolq, piqa, social_i_qa, winogrande)
}


def get_task(name: str) -> MultipleChoiceTask:
    """The task called ``name``, or a ``TaskError`` that lists what there is."""
    if name not in TASKS:
        raise TaskError(f"no task {name!r}; expected one of: {', '.join(TASKS)}")
    return TASKS[name]
