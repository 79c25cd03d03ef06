"""The audit: flaws of a benchmark that an AUROC would not show, counted and named."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.format.schema import SPLITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from wif_store.store.reader import ActivationStore
    from wif_store.tasks.base import Candidate

NAMED: Final = 20
"""How many ids of each flaw are listed."""

NEAR: Final = 0.9
"""The cosine of the TF-IDF vectors of two prompts from which on they are near-duplicates."""

FLAWS: Final = {
    "groups_across_splits": "groups of siblings that stand in more than one split",
    "near_duplicates_across_splits": f"prompts with a near-duplicate (TF-IDF cosine {NEAR}) in another split",
    "repeated": "items that stand more than once",
    "repeated_across_splits": "repeated items that stand in more than one split",
    "contradictory": "items that stand once as a success and once as a failure",
    "crossing_splits": "contradictory items that stand in more than one split",
    "prompts_cut": "prompts cut before their end",
    "gold_in_prompt": "prompts that hold the gold answer's own label",
}

REPEAT: Final = re.compile(r"(.+-[0-9a-f]{16})-\d+")
"""The id of an item that stands more than once ends in the number of the repeat."""


@dataclass(frozen=True, slots=True)
class Audited:
    """What the audit looks at in one example; None where a source does not say."""

    id: str
    split: str | None
    success: bool | None
    group: str
    prompt: str | None = None
    cut: int = 0


def audit_examples(examples: Iterable[Audited], *, gold_in_prompt: bool) -> dict[str, Any]:
    """Count every flaw of ``FLAWS`` among examples, and name the first of each.

    Returns:
        ``{"counts": {flaw: n}, "named": {flaw: [id, ...]}}``.
    """
    every = list(examples)
    found: dict[str, list[str]] = {flaw: [] for flaw in FLAWS}
    found["prompts_cut"] = [e.id for e in every if e.cut]
    found["gold_in_prompt"] = [e.id for e in every if gold_in_prompt]
    found["groups_across_splits"] = [
        group for group, members in _gathered(every, lambda e: e.group) if len({m.split for m in members}) > 1
    ]
    found["near_duplicates_across_splits"] = _near_duplicates(every)
    for item, copies in _gathered(every, lambda e: item_id(e.id)):
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
    examples = (Audited(c.id, c.published_split, c.published_success, c.group) for c in candidates)
    return audit_examples(examples, gold_in_prompt=False)


def audit_store(store: ActivationStore) -> dict[str, Any]:
    """Count flaws that an AUROC does not show, from what the store holds.

    Returns:
        ``{"counts": {flaw: n}, "named": {flaw: [id, ...]}}``; :data:`FLAWS` says what each flaw is.

    Example::

        wif_store.audit(store)["counts"]["groups_across_splits"]
    """
    examples = (
        Audited(e.id, e.split, bool(e.success), e.group, e.prompt, e.cut_tokens) for e in store.examples()
    )
    return audit_examples(examples, gold_in_prompt=bool(store.manifest.protocol.get("shows_gold")))


def item_id(example_id: str) -> str:
    """The id without the number of a repeat.

    Example:
        >>> item_id("piqa-0123456789abcdef-2")
        'piqa-0123456789abcdef'
    """
    match = REPEAT.fullmatch(example_id)
    return match[1] if match else example_id


def _gathered(examples: Iterable[Audited], key: Callable[[Audited], str]) -> list[tuple[str, list[Audited]]]:
    gathered: dict[str, list[Audited]] = defaultdict(list)
    for example in examples:
        gathered[key(example)].append(example)
    return list(gathered.items())


def _near_duplicates(examples: Sequence[Audited]) -> list[str]:
    """The ids of examples whose prompt is nearly one of an earlier split."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    texts = [e.prompt for e in examples if e.prompt is not None]
    if len(texts) < len(examples) or not texts:
        return []
    # Words and pairs of words, whatever they are made of: a prompt of signs alone has words too.
    vectors = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+").fit_transform(texts)
    splits = np.array([SPLITS.index(e.split) if e.split in SPLITS else 0 for e in examples])
    near: list[str] = []
    for number in range(1, len(SPLITS)):
        rows, earlier = np.flatnonzero(splits == number), np.flatnonzero(splits < number)
        if len(rows) and len(earlier):
            neighbours = NearestNeighbors(n_neighbors=1, metric="cosine").fit(vectors[earlier])
            distance = neighbours.kneighbors(vectors[rows])[0][:, 0]
            near += [examples[row].id for row in rows[distance <= 1 - NEAR]]
    return near
