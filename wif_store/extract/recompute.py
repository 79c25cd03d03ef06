"""Numerical truth: a sample of a store, computed again from the revisions that it records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from wif_store.errors import DamageError, ModelError, SourceError
from wif_store.extract.batching import limits_for
from wif_store.extract.extractor import Extractor
from wif_store.extract.model import EMBEDDED, load, locate
from wif_store.extract.residuals import Capture
from wif_store.extract.transfer import to_numpy
from wif_store.extract.trees import grow, pad
from wif_store.records import widen
from wif_store.tasks.rows import BUILTIN, load_source
from wif_store.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wif_store.extract.model import Model
    from wif_store.format.schema import Example, Float32
    from wif_store.store.reader import ActivationStore


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two computations of the same number may lie apart for batching and hardware alone."""

    largest: float
    """Relative L2 of one residual vector."""
    median: float
    """Of all of them."""
    nats: float
    """Of one choice's log-likelihood, per scored token."""


TOLERANCES: Final = {
    "float32": Tolerance(1e-4, 1e-4, 1e-3),
    "float16": Tolerance(1e-2, 2e-3, 2e-2),
    "bfloat16": Tolerance(5e-2, 1e-2, 0.1),
}


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What was computed again, and how near it came."""

    examples: int
    vectors: int
    largest: float
    median: float
    labels: bool
    """Whether tokens, log-likelihoods and answers were computed again too."""

    def __str__(self) -> str:
        """One line."""
        labels = (
            "tokens, log-likelihoods and labels agree"
            if self.labels
            else "labels were not recomputed: the source was a local file (--source names it)"
        )
        return (
            f"{self.examples} examples recomputed: {self.vectors} residuals agree (relative L2: largest "
            f"{self.largest:.1e}, median {self.median:.1e}); {labels}"
        )


def recompute(
    store: ActivationStore, count: int, *, model: str | None = None, source: str | None = None
) -> Recomputed:
    """Compute ``count`` examples, spread evenly over the store, again, and compare.

    Residuals are recomputed from the stored tokens, one example at a time; tokens, log-likelihoods and
    labels from the row of the source.

    Args:
        store: An open store.
        count: How many examples.
        model: Where the model is, if not where the store says; its revision must be the recorded one.
        source: Where the rows are, likewise.

    Raises:
        ModelError: If the model cannot be had, or is not the recorded revision.
        SourceError: If the rows cannot be had, or are not the recorded ones.
        DamageError: If something differs by more than rounding does; the first such example is named.
    """
    loaded = _load_recorded(store.manifest.model, model)
    rows = np.unique(np.linspace(0, len(store) - 1, min(count, len(store))).astype(int)).tolist()
    everything = store.examples()
    examples = [everything[row] for row in rows]
    tolerance = TOLERANCES[store.manifest.model["dtype"]]
    distances = []
    for row, example in zip(rows, examples, strict=True):
        stored, computed = store.read_example(row), _compute(store, loaded, example)
        pairs = zip(
            (*store.layers, *store.sequence_layers),
            (*stored[0], *stored[1]),
            (*computed[0], *computed[1]),
            strict=True,
        )
        for layer, there, here in pairs:
            distance = np.atleast_1d(_relative(there, here))
            if not np.all(distance <= tolerance.largest):
                msg = (
                    f"{store.name}: example {example.id}: the residuals of layer {layer} are not what the "
                    f"model computes (relative L2 {np.max(distance):.1e}; expected at most "
                    f"{tolerance.largest:.0e})"
                )
                raise DamageError(msg)
            distances.append(distance)
    found = np.concatenate(distances)
    if np.median(found) > tolerance.median:
        msg = (
            f"{store.name}: the residuals are not what the model computes (median relative L2 "
            f"{np.median(found):.1e}; expected at most {tolerance.median:.0e})"
        )
        raise DamageError(msg)
    labels = _check_labels(store, loaded, examples, tolerance, source)
    return Recomputed(len(rows), len(found), float(found.max()), float(np.median(found)), labels)


def _load_recorded(record: Mapping[str, Any], given: str | None) -> Model:
    recorded = {"embedded": EMBEDDED, "hub": f"{record['id']}@{record['revision']}"}.get(record["kind"])
    if given is None and recorded is None:
        msg = f"the store's model was the local {record['id']}: name the place with --model"
        raise ModelError(msg)
    located = locate(given or str(recorded))
    if located.revision != record["revision"]:
        msg = (
            f"model {located.name} is of revision {located.revision}; the store was computed with "
            f"{record['id']} of revision {record['revision']}: give that one"
        )
        raise ModelError(msg)
    if record["dtype"] not in TOLERANCES:
        msg = f"the store names the dtype {record['dtype']!r}; expected one of: {', '.join(TOLERANCES)}"
        raise DamageError(msg)
    return load(located, device="auto", dtype=record["dtype"])


@torch.inference_mode()
def _compute(store: ActivationStore, model: Model, example: Example) -> tuple[Float32, Float32]:
    """One example's final token ``[layers, d_model]``, sequence ``[sequence_layers, length, d_model]``."""
    ids = example.token_ids.tolist()
    if not all(0 <= token < model.head.vocabulary for token in ids):
        msg = f"{store.name}: example {example.id} holds tokens that the model does not have"
        raise DamageError(msg)
    rows = pad([grow([ids])], model.device)
    capture = Capture(store.layers, store.sequence_layers, rows.nodes[-1:], rows.nodes)
    with capture.reading(model.blocks):
        model.decoder.states(rows)
    final = capture.final_tokens(torch.zeros(1, dtype=torch.int64, device=model.device))
    sequences = capture.sequences(torch.arange(len(ids), device=model.device))
    return widen(to_numpy(final[:, 0].cpu())), widen(to_numpy(sequences.cpu()))


def _relative(stored: Float32, computed: Float32) -> np.ndarray:
    gap = np.linalg.norm((stored - computed).astype(np.float64), axis=-1)
    return np.asarray(gap / np.linalg.norm(computed.astype(np.float64), axis=-1))


def _check_labels(
    store: ActivationStore,
    model: Model,
    examples: Sequence[Example],
    tolerance: Tolerance,
    given: str | None,
) -> bool:
    """Score the rows of the source again; False where the store cannot say where they are."""
    task, record = get_task(store.task), store.manifest.source
    spec = given or _source_spec(record)
    if spec is None:
        return False
    protocol = task.protocol(store.manifest.protocol["name"])
    source = load_source(task, spec, keep_duplicates=protocol.keeps_duplicates)
    if source.record["sha256"] != record["sha256"]:
        msg = (
            f"source {source.record['id']} holds other rows than the store was built from "
            f"({record['id']} @ {record['revision']}): give those"
        )
        raise SourceError(msg)
    candidates = {candidate.id: candidate for candidate in source.candidates}
    chat = bool(store.manifest.model["chat_template"])
    extract = Extractor(model, protocol, store.layers[:1], (), limits_for(model.device), chat)
    for example in examples:
        candidate = candidates.get(example.id)
        if candidate is None or (candidate.source_row, candidate.gold) != (example.source_row, example.gold):
            raise _differs(store, example, "gold answer or row")
        scored = extract([task.request(candidate, protocol)])[0]
        gap = np.abs(scored.logprobs - example.choice_logprobs)
        allowed = tolerance.nats * scored.choice_tokens
        if scored.choice_tokens.tolist() != list(example.choice_tokens) or np.any(gap > allowed):
            raise _differs(store, example, "log-likelihoods")
        # Two choices within rounding of each other may change places, and with them what is read.
        if example.confidence > 2 * allowed.max():
            if scored.prediction != example.prediction:
                raise _differs(store, example, "prediction")
            if scored.prompt != example.prompt or scored.token_ids.tolist() != example.token_ids.tolist():
                raise _differs(store, example, "prompt or tokens")
    return True


def _source_spec(record: Mapping[str, Any]) -> str | None:
    if record["kind"] == "builtin":
        return BUILTIN
    if record["kind"] == "hub":
        config = f"{record['config']}/" if record["config"] else ""
        return f"{record['id']}@{record['revision']}:{config}{record['split']}"
    return None


def _differs(store: ActivationStore, example: Example, what: str) -> DamageError:
    msg = f"{store.name}: example {example.id}: the {what} are not what the model and the source give"
    return DamageError(msg)
