"""The plan of a build: everything that determines a store's bytes, and whether a store has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wif_store import __version__
from wif_store.builder.differences import differences, listed
from wif_store.errors import BuildError, StoreError, WifError
from wif_store.format.layers import parse_layers
from wif_store.format.schema import FINAL_TOKEN, FORMAT_VERSION, MANIFEST, SEQUENCE
from wif_store.store.reader import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wif_store.records import Engine
    from wif_store.storage import Storage
    from wif_store.tasks.base import Protocol, Task
    from wif_store.tasks.rows import Source


@dataclass(frozen=True, slots=True)
class Settings:
    """What the caller decides about a store, beyond the model."""

    task: Task
    protocol: Protocol
    per_class: int | None = 2000
    """k, or None for as many pairs as each split has."""
    seed: int = 0
    splits: str = "seeded"
    """``seeded``, or ``published`` to keep the split that the source carries."""
    skip_too_long: bool = False
    """Whether rows that are longer than the model's context are left out and counted, or end the build."""


def plan_of(settings: Settings, engine: Engine, source: Source) -> dict[str, Any]:
    """Everything that determines the store's bytes."""
    return {
        "format_version": FORMAT_VERSION,
        "task": settings.task.name,
        "outcome": settings.protocol.outcome,
        "protocol": _protocol_record(settings),
        "model": engine.model,
        "source": source.record,
        "selection": _selection_record(settings),
        "batching": engine.batching,
        "versions": {"wif-store": __version__, **engine.versions},
    }


def _protocol_record(settings: Settings) -> dict[str, Any]:
    task, protocol = settings.task, settings.protocol
    return {**protocol.record(), **task.record(protocol), "shows_gold": task.shows_gold(protocol)}


def _selection_record(settings: Settings) -> dict[str, Any]:
    return {
        "seed": settings.seed,
        "per_class": settings.per_class or "max",
        "splits": settings.splits,
        "skip_too_long": settings.skip_too_long,
    }


def is_finished(
    out: Storage,
    settings: Settings,
    source: Source,
    *,
    model: Mapping[str, Any],
    batching: Mapping[str, Any],
    layers: str,
    sequence_layers: str,
) -> bool:
    """Whether the store that a build would write stands at ``out``, by what is known without its model.

    Args:
        out: Where the store would stand.
        settings: What is to be built.
        source: The task's rows.
        model: What the manifest must say of the model, as far as it is known.
        batching: Likewise of the batches.
        layers: The layers of final tokens, as the caller gave them.
        sequence_layers: The layers of sequences, likewise.
    """
    if not out.exists(MANIFEST):
        return False
    try:
        manifest = open_store(str(out)).manifest
        every = range(manifest.model["n_layers"])
        same_layers = (
            list(parse_layers(layers, every)) == manifest.layers[FINAL_TOKEN]
            and list(parse_layers(sequence_layers, every)) == manifest.layers[SEQUENCE]
        )
    except WifError:
        return False
    expected = {
        "protocol": _protocol_record(settings),
        "source": source.record,
        "selection": _selection_record(settings),
        "model": dict(model),
        "batching": dict(batching),
    }
    expected = json.loads(json.dumps(expected))
    found = {
        section: {name: getattr(manifest, section).get(name) for name in values}
        for section, values in expected.items()
    }
    return same_layers and manifest.task == settings.task.name and found == expected


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
