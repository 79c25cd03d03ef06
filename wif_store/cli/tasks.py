"""``wif-store tasks`` as a person sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wif_store.errors import TaskError
from wif_store.tasks import get_task, names
from wif_store.tasks.lookup import HARNESS

if TYPE_CHECKING:
    from collections.abc import Iterator


def found_tasks(word: str) -> dict[str, Any]:
    """Each registered task with its protocols, and the harness's; None of these where it is not installed."""
    try:
        theirs = _of_harness(word)
    except TaskError:
        theirs = None
    return {"tasks": _ours(word), "harness": theirs}


def list_tasks(word: str) -> Iterator[str]:
    """The same as lines."""
    for task in _ours(word):
        yield f"{task['name']}: {', '.join(task['protocols'])}"
    try:
        found = _of_harness(word)
    except TaskError as error:
        yield f"lm_eval/...: {error}"
        return
    yield from found if word else [f"{HARNESS}...: {len(found):,} of the harness; name a word to list them"]


def _ours(word: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "protocols": [protocol.name for protocol in get_task(name).protocols]}
        for name in names()
        if word in name
    ]


def _of_harness(word: str) -> list[str]:
    from wif_store.tasks.harness_registry import harness_names

    return [HARNESS + name for name in harness_names() if word in name]
