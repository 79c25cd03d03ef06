"""The tasks: one file each, this registry of them, and the readers of their rows.

A new task is one file beside these and one name in the import below. May import format, storage and errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wif_store.errors import TaskError
from wif_store.tasks import boolq, piqa, social_i_qa, winogrande

if TYPE_CHECKING:
    from wif_store.tasks.base import MultipleChoiceTask

TASKS: dict[str, MultipleChoiceTask] = {
    module.TASK.name: module.TASK for module in (boolq, piqa, social_i_qa, winogrande)
}


def get_task(name: str) -> MultipleChoiceTask:
    """The task of that name.

    Example:
        >>> get_task("boolq").group
        ('passage',)

    Raises:
        TaskError: If there is none; the message lists what there is.
    """
    if name not in TASKS:
        msg = f"no task {name!r}; expected one of: {', '.join(TASKS)}"
        raise TaskError(msg)
    return TASKS[name]


def names() -> list[str]:
    """The names of the registered tasks, in the order of the registry.

    Example:
        >>> names()
        ['boolq', 'piqa', 'social_i_qa', 'winogrande']
    """
    return list(TASKS)
