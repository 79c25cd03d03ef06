"""The audit: flaws of a benchmark that an AUC would not show, counted and named."""

from __future__ import annotations

import string
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wif_store.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wif_store.store.reader import ActivationStore
    from wif_store.tasks.base import Candidate, MultipleChoiceTask, Protocol

NAMED = 20
"""How many ids of each flaw are listed."""

FLAWS = {
    "repeated": "items that stand more than once",
    "contradictory": "items that stand once as a success and once as a failure",
    "crossing_splits": "contradictory items that stand in more than one split",
    "repeated_across_splits": "repeated items that stand in more than one split",
    "prompts_cut": "prompts cut before their end",
    "gold_in_prompt": "prompts that hold the gold answer's own label",
}


@dataclass(frozen=True, slots=True)
class Audited:
    """What the audit looks at in one example."""

    id: str
    split: str | None
    success: bool | None
    cut: int = 0


def audit_examples(examples: Iterable[Audited], *, gold_in_prompt: bool) -> dict[str, Any]:
    """Count every flaw of ``FLAWS`` among examples, and name the first of each.

    Returns:
        ``{"counts": {flaw: n}, "named": {flaw: [id, ...]}}``.
    """
    items: dict[str, list[Audited]] = defaultdict(list)
    found: dict[str, list[str]] = {flaw: [] for flaw in FLAWS}
    for example in examples:
        items[item_id(example.id)].append(example)
        if example.cut:
            found["prompts_cut"].append(example.id)
        if gold_in_prompt:
            found["gold_in_prompt"].append(example.id)
    for item, copies in items.items():
        if len(copies) == 1:
            continue
        found["repeated"].append(item)
        crossing = len({c.split for c in copies}) > 1
        if crossing:
            found["repeated_across_splits"].append(item)
        if len({c.success for c in copies}) > 1:
            found["contradictory"].append(item)
            if crossing:
                found["crossing_splits"].append(item)
    return {
        "counts": {flaw: len(ids) for flaw, ids in found.items()},
        "named": {flaw: ids[:NAMED] for flaw, ids in found.items() if ids},
    }


def audit_published(candidates: Sequence[Candidate]) -> dict[str, Any] | None:
    """The same audit over a whole source and the outcomes and splits published with it, if any are."""
    if any(c.published_success is None or c.published_split is None for c in candidates):
        return None
    examples = (Audited(c.id, c.published_split, c.published_success) for c in candidates)
    return audit_examples(examples, gold_in_prompt=False)


def audit_store(store: ActivationStore) -> dict[str, Any]:
    """The audit of a store, computed from what it holds."""
    cut = store.array("cut_tokens").tolist()
    examples = (
        Audited(e.id, e.split, bool(e.success), n) for e, n in zip(store.examples(), cut, strict=True)
    )
    task = get_task(store.task)
    return audit_examples(
        examples, gold_in_prompt=shows_gold(task, task.protocol(store.manifest.protocol["name"]))
    )


def shows_gold(task: MultipleChoiceTask, protocol: Protocol) -> bool:
    """Whether the text that is read is made from a field that only the answer key has."""
    template = protocol.prompt if protocol.site == "prompt" else protocol.context
    names = {name for _, name, _, _ in string.Formatter().parse(template) if name}
    return bool(names & (task.fields.keys() - set(task.key)))


def item_id(example_id: str) -> str:
    """The id without the number of a repeat: ``piqa-0123456789abcdef-2`` -> ``piqa-0123456789abcdef``."""
    task, digest = example_id.split("-")[:2]
    return f"{task}-{digest}"
