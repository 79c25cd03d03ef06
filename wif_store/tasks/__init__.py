"""The tasks: one file each, this registry of them, and the readers of their rows.

A new task is one file beside these and one name in the import below, or one in a package of its own that
registers it under the entry point ``wif_store.tasks``. May import format, storage and errors.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

from wif_store.errors import TaskError, one_line
from wif_store.tasks import boolq, piqa, social_i_qa, winogrande

if TYPE_CHECKING:
    from wif_store.tasks.base import Task

TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in (boolq, piqa, social_i_qa, winogrande)}

ENTRY_POINT: Final = "wif_store.tasks"
"""The group of entry points under which other packages register tasks, each by its name."""


def get_task(name: str) -> Task:
    """The task of that name: one of ours, or one that another package registers.

    Example:
        >>> get_task("boolq").group
        ('passage',)

    Raises:
        TaskError: If there is none (the message lists what there is), or another package's cannot be loaded.
    """
    if name in TASKS:
        return TASKS[name]
    found = entry_points(group=ENTRY_POINT, name=name)
    if not found:
        msg = f"no task {name!r}; expected one of: {', '.join(names())}"
        raise TaskError(msg)
    [registered, *_] = found
    try:
        task = registered.load()
        same = task.name == name
    except Exception as error:
        # What another package does when it is imported is its own: each failure becomes one line.
        msg = (
            f"task {name} of {registered.value} cannot be loaded ({type(error).__name__}: {one_line(error)})"
        )
        raise TaskError(msg) from None
    if not same:
        msg = f"{registered.value} is registered as task {name}, and its name is {task.name!r}: make them one"
        raise TaskError(msg)
    return task  # type: ignore[no-any-return]


def names() -> list[str]:
    """The names of the registered tasks: ours in the order of the registry, then those of other packages.

    Example:
        >>> names()
        ['boolq', 'piqa', 'social_i_qa', 'winogrande']
    """
    return [*TASKS, *sorted(set(entry_points(group=ENTRY_POINT).names) - TASKS.keys())]
