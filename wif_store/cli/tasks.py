"""``wif-store tasks`` as a person sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wif_store.errors import TaskError
from wif_store.tasks import get_task, names
from wif_store.tasks.lookup import HARNESS

if TYPE_CHECKING:
    from collections.abc import Iterator


def found_tasks(word: str) -> dict[str, Any]:
    """The same for a program; the harness's names are None where it is not installed."""
    ours = [
        {"name": name, "protocols": [protocol.name for protocol in get_task(name).protocols]}
        for name in names()
        if word in name
    ]
    try:
        from wif_store.tasks.harness_registry import harness_names

        theirs = [HARNESS + name for name in harness_names() if word in name]
    except TaskError:
        return {"tasks": ours, "harness": None}
    return {"tasks": ours, "harness": theirs}


def list_tasks(word: str) -> Iterator[str]:
    """A line for each registered task, with its protocols, and for each of the harness's."""
    for name in names():
        if word in name:
            yield f"{name}: {', '.join(protocol.name for protocol in get_task(name).protocols)}"
    try:
        from wif_store.tasks.harness_registry import harness_names

        found = [HARNESS + name for name in harness_names() if word in name]
    except TaskError as error:
        yield f"lm_eval/...: {error}"
        return
    yield from found if word else [f"{HARNESS}...: {len(found):,} of the harness; name a word to list them"]
