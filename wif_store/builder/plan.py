"""The plan of a build: everything that determines a store's bytes, and whether a store has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wif_store import __version__
from wif_store.builder.differences import differences, listed
from wif_store.errors import BuildError, StoreError
from wif_store.format.schema import FORMAT_VERSION
from wif_store.store.audit import shows_gold
from wif_store.store.reader import open_store

if TYPE_CHECKING:
    from wif_store.records import Engine
    from wif_store.storage import Storage
    from wif_store.tasks.base import MultipleChoiceTask, Protocol
    from wif_store.tasks.rows import Source


@dataclass(frozen=True, slots=True)
class Settings:
    """What the caller decides about a store, beyond the model."""

    task: MultipleChoiceTask
    protocol: Protocol
    per_class: int | None = 2000
    """k, or None for as many pairs as each split has."""
    seed: int = 0
    splits: str = "seeded"
    """``seeded``, or ``published`` to keep the split that the source carries."""


def plan_of(settings: Settings, engine: Engine, source: Source) -> dict[str, Any]:
    """Everything that determines the store's bytes."""
    return {
        "format_version": FORMAT_VERSION,
        "task": settings.task.name,
        "outcome": "choice",
        "protocol": {
            **settings.protocol.record(),
            "shows_gold": shows_gold(settings.task, settings.protocol),
        },
        "model": engine.model,
        "source": source.record,
        "selection": {
            "seed": settings.seed,
            "per_class": settings.per_class or "max",
            "splits": settings.splits,
        },
        "batching": engine.batching,
        "versions": {"wif-store": __version__, **engine.versions},
    }


def check_finished(out: Storage, plan: dict[str, Any]) -> None:
    """Say what stands at ``out``, unless it is the store that this plan would build.

    Raises:
        BuildError: If it is another one, or none.
    """
    try:
        manifest = open_store(str(out)).manifest
    except StoreError as error:
        msg = f"{out} exists and is not a finished store ({error}): choose another --out, or delete it"
        raise BuildError(msg) from None
    plan = json.loads(json.dumps(plan))
    found = {
        "task": manifest.task,
        "protocol": manifest.protocol,
        "model": manifest.model,
        "source": manifest.source,
        "selection": {name: manifest.selection.get(name) for name in plan["selection"]},
        "batching": manifest.batching,
    }
    differing = differences(found, {name: plan[name] for name in found})
    if differing:
        msg = (
            f"{out} holds a finished store with another {listed(differing)}: "
            "choose another --out, or delete it"
        )
        raise BuildError(msg)
