"""Every checksum and every invariant of a store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wif_store.errors import DamageError
from wif_store.store.files import read_manifest
from wif_store.storage import LocalStorage, describe
from wif_store.format.schema import ARRAYS, FINAL_TOKEN, MANIFEST, SEQUENCE, SPLITS
from wif_store.store.reader import ActivationStore, open_store
from wif_store.format.validate import METADATA

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked."""

    files: int
    size: int
    examples: int
    invariants: int


def verify_store(path: str | os.PathLike[str]) -> Verified:
    """Check a local store whole.

    Raises:
        StoreError: If it cannot be opened.
        DamageError: On the first file whose SHA-256 differs, or invariant that does not hold.
    """
    folder = Path(path)
    # Bytes before meaning: opening a store reads some of its arrays.
    files = read_manifest(LocalStorage(folder)).files
    for name, entry in files.items():
        if describe(folder / name) != entry:
            array = name.split("/")[0] if "/" in name else "metadata"
            msg = f"{folder}: {name} ({array}) does not have its SHA-256: build or pull the store again"
            raise DamageError(msg)
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    if unknown := sorted(present - files.keys() - {MANIFEST}):
        msg = f"{folder}: {unknown[0]} is not in the manifest: remove it"
        raise DamageError(msg)
    store, count = open_store(folder), 0
    together = json.loads((folder / METADATA).read_bytes())["consolidated_metadata"]["metadata"]
    for array, metadata in together.items():
        if json.loads((folder / array / METADATA).read_bytes()) != metadata:
            msg = f"{folder}: {array}/{METADATA} is not what {METADATA} says of it: readers would differ"
            raise DamageError(msg)
    for meaning, holds in _invariants(store):
        count += 1
        if not holds:
            msg = f"{folder}: found a store in which not every example satisfies: {meaning}"
            raise DamageError(msg)
    return Verified(len(files), sum(e["size"] for e in files.values()), len(store), count)


def _invariants(store: ActivationStore) -> Iterator[tuple[str, bool]]:
    n = len(store)
    columns = {name: store.array(name) for name, spec in ARRAYS.items() if spec.dims[0] == "example"}
    yield "every per-example array has one row per example", all(len(c) == n for c in columns.values())
    yield "ids are unique", len(set(columns["example_id"].tolist())) == n
    success = columns["success"]
    yield "success is prediction == gold", bool(np.all(success == (columns["prediction"] == columns["gold"])))
    scores = np.where(np.isnan(columns["choice_logprob"]), -np.inf, columns["choice_logprob"])
    yield "prediction is the likeliest choice", bool(np.all(scores.argmax(1) == columns["prediction"]))
    yield (
        "gold is one of the choices",
        bool(np.all((columns["gold"] >= 0) & (columns["gold"] < columns["n_choices"]))),
    )
    for number, split in enumerate(SPLITS):
        rows, entry = store.rows(split), store.manifest.splits[split]
        yield f"the rows of {split} carry its number", bool(np.all(columns["split"][rows] == number))
        yield f"the successes of {split} are as counted", int(success[rows].sum()) == entry["successes"]
    yield "successes and failures are as many", int(success.sum()) * 2 == n
    offsets = store.offsets()
    lengths = np.diff(offsets)
    yield "offsets begin at 0 and every example has tokens", bool(offsets[0] == 0 and np.all(lengths > 0))
    yield "the final token is the last", bool(np.all(columns["final_token_position"] == lengths - 1))
    yield "token_ids has every token", len(store._read("token_ids")) == offsets[-1]
    for layer in store.layers:
        final, _ = store.read_final_token(layer)
        yield f"{FINAL_TOKEN} of layer {layer} is finite", bool(np.isfinite(final).all())
        if layer in store.sequence_layers:
            last = np.stack([s[-1] for s in store.iter_sequences(layer)])
            yield f"{FINAL_TOKEN} of layer {layer} ends its {SEQUENCE}", bool(np.array_equal(last, final))
    for layer in store.sequence_layers:
        finite = all(bool(np.isfinite(s).all()) for s in store.iter_sequences(layer))
        yield f"{SEQUENCE} of layer {layer} is finite", finite
