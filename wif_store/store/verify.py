"""Every checksum and every invariant of a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wif_store.errors import DamageError
from wif_store.format.schema import FINAL_TOKEN, MANIFEST, SEQUENCE, SPLITS
from wif_store.storage import LocalStorage, describe
from wif_store.store.files import read_manifest
from wif_store.store.reader import ActivationStore, open_store

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from wif_store.format.schema import Example


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked."""

    files: int
    size: int
    examples: int
    invariants: int


def verify_store(path: str | os.PathLike[str]) -> Verified:
    """Check every byte and every invariant of a local store.

    Raises:
        StoreError: If it cannot be opened.
        DamageError: On the first file whose SHA-256 differs, or invariant that does not hold.

    Example::

        wif_store.verify("winogrande.zarr").examples
    """
    folder = Path(path)
    # Bytes before meaning: opening a store reads some of its arrays.
    storage = LocalStorage(folder)
    files = read_manifest(storage).files
    for name, entry in files.items():
        if describe(folder / name) != {"size": entry["size"], "sha256": entry["sha256"]}:
            msg = f"{folder}: {name} does not have its SHA-256: build or pull the store again"
            raise DamageError(msg)
    if unknown := sorted(storage.sizes().keys() - files.keys() - {MANIFEST}):
        msg = f"{folder}: {unknown[0]} is not in the manifest: remove it"
        raise DamageError(msg)
    store, count = open_store(folder), 0
    for meaning, holds in _invariants(store):
        count += 1
        if not holds:
            msg = f"{folder}: found a store in which not every example satisfies: {meaning}"
            raise DamageError(msg)
    return Verified(len(files), sum(e["size"] for e in files.values()), len(store), count)


def _invariants(store: ActivationStore) -> Iterator[tuple[str, bool]]:
    examples = {split: store.examples(split) for split in SPLITS}
    every = [example for split in SPLITS for example in examples[split]]
    yield "ids are unique", len({e.id for e in every}) == len(every)
    yield "the task is the manifest's", all(e.task == store.task for e in every)
    for name, layers in (("layer", store.layers), ("sequence_layer", store.sequence_layers)):
        yield f"{name} is as the manifest says", store.coordinate(name).tolist() == list(layers)
    for split in SPLITS:
        success = store.success(split)
        alternating = np.array_equal(success, np.arange(len(success)) % 2 == 0)
        yield f"successes and failures of {split} take turns", alternating
        yield f"the table of {split} has the labels", success.tolist() == [e.success for e in examples[split]]
        lengths = np.diff(store.offsets(split)).tolist()
        yield f"the table of {split} has the lengths", lengths == [e.tokens for e in examples[split]]
        groups = len({e.group for e in examples[split]})
        yield f"the groups of {split} are as counted", groups == store.manifest.splits[split]["groups"]
    if store.manifest.selection.get("splits") == "seeded":
        members = [{e.group for e in examples[split]} for split in SPLITS]
        yield "no group is in two splits", len(set().union(*members)) == sum(map(len, members))
    yield "the final token is the last", all(e.final_token_position == e.tokens - 1 for e in every)
    if "verdict" not in store.manifest.protocol:  # whose verdict may be another one
        yield (
            "success is prediction == gold",
            all(e.success == (e.choice.prediction == e.choice.gold) for e in every if e.choice is not None),
        )
    yield from _choices(every)
    yield from _responses(every)
    for layer in store.layers:
        read = {
            site: {split: store.read_site(site, layer, split)[0] for split in SPLITS}
            for site in store.manifest.sites
        }
        for site, values in read.items():
            yield f"{site} of layer {layer} is finite", all(map(_finite, values.values()))
        final = read[FINAL_TOKEN]
        if layer in store.sequence_layers:
            last = (
                np.stack([tokens[-1] for tokens in store.iter_sequences(layer, split)]) for split in SPLITS
            )
            same = all(np.array_equal(a, b) for a, b in zip(last, final.values(), strict=True))
            yield f"{FINAL_TOKEN} of layer {layer} ends its {SEQUENCE}", same
    for layer in store.sequence_layers:
        yield f"{SEQUENCE} of layer {layer} is finite", all(map(_finite, store.iter_sequences(layer)))


def _choices(examples: list[Example]) -> Iterator[tuple[str, bool]]:
    """What holds of examples whose answer is one of given choices."""
    found = [e.choice for e in examples if e.choice is not None]
    if not found:
        return
    yield "gold is one of the choices", all(0 <= c.gold < len(c.choices) for c in found)
    scored = all(len(c.choices) == len(c.choice_logprobs) == len(c.choice_tokens) for c in found)
    yield "every choice is scored", scored
    best = all(c.prediction == int(np.argmax(c.choice_logprobs)) for c in found)
    yield "prediction is the likeliest choice", best


def _responses(examples: list[Example]) -> Iterator[tuple[str, bool]]:
    """What holds of examples whose answer the model wrote."""
    found = [(e, e.response) for e in examples if e.response is not None]
    if not found:
        return
    yield "every response follows a prompt", all(0 < r.prompt_tokens <= e.tokens for e, r in found)
    rates = all(0 <= r.success_rate <= 1 for _, r in found)
    yield "every success rate is a share", rates
    known = all(r.response_logprob <= 0 or r.prompt_tokens == e.tokens for e, r in found)
    yield "every response has a log-likelihood", known
    least = all(r.response_logprob <= r.least_logprob <= 0 for _, r in found)
    yield "no token is less likely than its response", least


def _finite(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all())
