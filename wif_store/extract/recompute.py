"""Numerical truth: a sample of a store, computed again from the revisions that it records."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from string import Formatter
from typing import TYPE_CHECKING, Any, Final, get_args

import numpy as np
import torch

from wif_store.errors import DamageError, ModelError, SourceError
from wif_store.extract.batching import limits_for
from wif_store.extract.checkpoint import EMBEDDED, locate
from wif_store.extract.extractor import Extractor
from wif_store.extract.hooks import Capture
from wif_store.extract.model import load
from wif_store.extract.transfer import to_numpy
from wif_store.extract.trees import grow, pad
from wif_store.format.schema import PROMPT_END, SPLITS
from wif_store.records import Written, widen
from wif_store.tasks.base import Generation, Protocol, Site
from wif_store.tasks.lookup import task_of
from wif_store.tasks.rows import BUILTIN, load_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wif_store.extract.model import Model
    from wif_store.format.schema import Example, Float32
    from wif_store.store.reader import ActivationStore
    from wif_store.tasks.base import Candidate, Task

NAMED_SOURCE: Final = "the source was a local file (--source names it)"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two computations of the same number may lie apart for batching and hardware alone.

    Attributes:
        largest: Relative L2 of one residual vector.
        median: The median of all of them.
        nats: Of one choice's log-likelihood, per scored token.
    """

    largest: float
    median: float
    nats: float


TOLERANCES: Final = {
    "float32": Tolerance(1e-4, 1e-4, 1e-3),
    "float16": Tolerance(1e-2, 2e-3, 2e-2),
    "bfloat16": Tolerance(5e-2, 1e-2, 0.1),
}


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What was computed again, and how near it came.

    Attributes:
        examples: How many examples.
        vectors: How many residual vectors.
        largest: Their largest relative L2 to the stored ones.
        median: The median of it.
        without_labels: Why tokens, log-likelihoods and answers were not computed again; empty if they were.
    """

    examples: int
    vectors: int
    largest: float
    median: float
    without_labels: str = ""

    @property
    def labels(self) -> bool:
        """Whether tokens, log-likelihoods and answers were computed again too."""
        return not self.without_labels

    def __str__(self) -> str:
        """One line."""
        labels = (
            "tokens, log-likelihoods and labels agree"
            if self.labels
            else f"labels were not recomputed: {self.without_labels}"
        )
        return (
            f"{self.examples} examples recomputed: {self.vectors} residuals agree (relative L2: largest "
            f"{self.largest:.1e}, median {self.median:.1e}); {labels}"
        )


def recompute(
    store: ActivationStore, count: int, *, model: str | None = None, source: str | None = None
) -> Recomputed:
    """Compute ``count`` examples, spread over the splits, again, and compare.

    Residuals are recomputed from the stored tokens, one example at a time; tokens, log-likelihoods and labels
    from the row of the source, under the protocol that the store records.

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
    tolerance = TOLERANCES[store.manifest.model["dtype"]]
    distances, examples = [], []
    for split, rows in _sample(store, count).items():
        in_split = store.examples(split)
        for row in rows:
            examples.append(in_split[row])
            vectors, sequence = _compute(store, loaded, in_split[row])
            for number, site in enumerate(store.manifest.sites):
                stored, computed = store.read_example(split, row, site), (vectors[:, number], sequence)
                found = _distances(store, in_split[row], stored, computed, tolerance)
                # The sequence is the same whatever the site.
                distances += found[: len(store.layers)] if number else found
    every = np.concatenate(distances)
    if np.median(every) > tolerance.median:
        msg = (
            f"{store.name}: the residuals are not what the model computes (median relative L2 "
            f"{np.median(every):.1e}; expected at most {tolerance.median:.0e})"
        )
        raise DamageError(msg)
    without = _check_labels(store, loaded, examples, tolerance, source)
    return Recomputed(len(examples), len(every), float(every.max()), float(np.median(every)), without)


def _sample(store: ActivationStore, count: int) -> dict[str, list[int]]:
    """Rows of each split, evenly spaced: one of every split if there may be, the others by their sizes."""
    sizes = {split: store.count(split) for split in SPLITS}
    shares = dict.fromkeys(SPLITS, 0)
    for _ in range(min(count, len(store))):
        open_splits = [split for split in SPLITS if shares[split] < sizes[split]]
        shares[max(open_splits, key=lambda s: (shares[s] == 0, sizes[s] / (2 * shares[s] + 1)))] += 1
    return {
        split: ((np.arange(share) + 0.5) * sizes[split] / max(1, share)).astype(int).tolist()
        for split, share in shares.items()
    }


def _distances(
    store: ActivationStore,
    example: Example,
    stored: tuple[Float32, Float32],
    computed: tuple[Float32, Float32],
    tolerance: Tolerance,
) -> list[np.ndarray]:
    """How far the residuals of one example are from the computed ones, layer by layer.

    Raises:
        DamageError: If one is farther than it may be.
    """
    distances = []
    layers = (*store.layers, *store.sequence_layers)
    for layer, there, here in zip(
        layers, (*stored[0], *stored[1]), (*computed[0], *computed[1]), strict=True
    ):
        distance = np.atleast_1d(_relative(there, here))
        if not np.all(distance <= tolerance.largest):
            msg = (
                f"{store.name}: example {example.id}: the residuals of layer {layer} are not what the "
                f"model computes (relative L2 {np.max(distance):.1e}; expected at most "
                f"{tolerance.largest:.0e})"
            )
            raise DamageError(msg)
        distances.append(distance)
    return distances


def recorded_spec(record: Mapping[str, Any], given: str | None) -> str:
    """What names the model of a store: what is given, or else what the store says.

    Raises:
        ModelError: If the model was a local one and nothing is given.
    """
    recorded = {"embedded": EMBEDDED, "hub": f"{record['id']}@{record['revision']}"}.get(record["kind"])
    if given is None and recorded is None:
        msg = f"the store's model was the local {record['id']}: name its folder with --model"
        raise ModelError(msg)
    return given or str(recorded)


def _load_recorded(record: Mapping[str, Any], given: str | None) -> Model:
    located = locate(recorded_spec(record, given))
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
    """One example: ``[layers, sites, d_model]``, and all tokens as ``[sequence_layers, length, d_model]``."""
    ids = example.token_ids.tolist()
    if not all(0 <= token < model.vocabulary for token in ids):
        msg = f"{store.name}: example {example.id} holds tokens that the model does not have"
        raise DamageError(msg)
    rows = pad([grow([ids])], model.device)
    capture = Capture(store.layers, store.sequence_layers)
    prompt = example.response.prompt_tokens if example.response else len(ids)
    at = [(prompt if site == PROMPT_END else len(ids)) - 1 for site in store.manifest.sites]
    with capture.reading(model.layers, rows.nodes[at], rows.nodes):
        model.decoder.states(rows)
    vectors = capture.final_tokens(torch.arange(len(at), device=model.device))
    sequences = capture.sequences(torch.arange(len(ids), device=model.device))
    return widen(to_numpy(vectors.cpu())), widen(to_numpy(sequences.cpu()))


def _relative(stored: Float32, computed: Float32) -> np.ndarray:
    gap = np.linalg.norm((stored - computed).astype(np.float64), axis=-1)
    return np.asarray(gap / np.linalg.norm(computed.astype(np.float64), axis=-1))


def _check_labels(
    store: ActivationStore,
    model: Model,
    examples: Sequence[Example],
    tolerance: Tolerance,
    given: str | None,
) -> str:
    """Score the rows of the source again; says why not, where the store does not say enough for that."""
    record = store.manifest.source
    spec = given or _source_spec(record)
    if spec is None and record["kind"] != "harness":
        return NAMED_SOURCE
    task = task_of(store.manifest, spec)
    if task is None:
        return f"task {store.task} is not registered here"
    protocol = _recorded_protocol(store, task)
    source = load_source(task, spec, keep_duplicates=protocol.keeps_duplicates)
    if source.record["sha256"] != record["sha256"]:
        msg = (
            f"source {source.record['id']} holds other rows than the store was built from "
            f"({record['id']} @ {record['revision']}): give those"
        )
        raise SourceError(msg)
    candidates = {candidate.id: candidate for candidate in source.candidates}
    extract = Extractor(
        model, protocol, store.layers[:1], (), limits_for(model.device), _recorded_template(store)
    )
    for example in examples:
        candidate, choice = candidates.get(example.id), example.choice
        if candidate is None or candidate.source_row != example.source_row:
            raise _differs(store, example, "gold answer or row")
        if example.response is not None:
            _check_response(store, example, task, candidate, extract, tolerance)
            continue
        if choice is None:
            raise _differs(store, example, "gold answer or row")
        if (candidate.source_row, candidate.gold) != (example.source_row, choice.gold):
            raise _differs(store, example, "gold answer or row")
        try:
            request = task.request(candidate, protocol)
        except KeyError as error:
            raise _no_protocol(store, f"a template has the field {error}") from None
        scored = extract([request])[0]
        tokens = tuple(scored.choice_tokens.tolist())
        if tokens != choice.choice_tokens:
            raise _differs(store, example, "log-likelihoods")
        allowed = tolerance.nats * scored.choice_tokens
        if np.any(np.abs(scored.logprobs - choice.choice_logprobs) > allowed):
            raise _differs(store, example, "log-likelihoods")
        # Of two choices within rounding of each other, either may win, and be what is read.
        if choice.margin > 2 * allowed.max():
            if scored.prediction != choice.prediction:
                raise _differs(store, example, "prediction")
            if scored.prompt != example.prompt or scored.token_ids.tolist() != example.token_ids.tolist():
                raise _differs(store, example, "prompt or tokens")
    return ""


def _check_response(
    store: ActivationStore,
    example: Example,
    task: Task,
    candidate: Candidate,
    extract: Extractor,
    tolerance: Tolerance,
) -> None:
    """Hold a response against its row: the prompt's tokens, the log-likelihood and the verdict.

    Nothing is written again: of two tokens within rounding of each other either may be the likelier.

    Raises:
        DamageError: If something differs by more than rounding does.
    """
    response, ids = example.response, example.token_ids.tolist()
    assert response is not None
    request = task.request(candidate, extract.protocol)
    [encoded] = extract.encoder.encode([request])
    given = request.pairs[0][1]
    written = extract.model.tokenizer.decode(ids[response.prompt_tokens :], skip_special_tokens=True)
    same = (
        encoded.contexts[0] == ids[: response.prompt_tokens],
        encoded.texts[0] == example.prompt,
        given in ("", response.response),
        given or str(written).startswith(response.response),
        candidate.targets == response.targets,
    )
    if not all(same):
        raise _differs(store, example, "prompt, targets or tokens")
    answered = replace(
        encoded, continuations=(ids[response.prompt_tokens :],), written=Written(response.response, "given")
    )
    [record] = extract.read([answered])
    count = max(1, len(ids) - response.prompt_tokens)
    assert record.written is not None
    apart = abs(float(record.logprobs[0]) - response.response_logprob)
    apart_least = abs(record.written.least_logprob - response.least_logprob)
    if apart > tolerance.nats * count or apart_least > tolerance.nats:
        raise _differs(store, example, "log-likelihoods")
    verdict = task.judge(candidate, extract.protocol)(record.answer)
    if (int(verdict.success), verdict.answer) != (example.success, response.answer):
        raise _differs(store, example, "verdict")


def _recorded_protocol(store: ActivationStore, task: Task) -> Protocol:
    """The protocol as the store records it, whatever the registry calls by its name now.

    Raises:
        DamageError: If it is no protocol. A stranger's templates may name fields, and nothing else.
    """
    recorded = dict(store.manifest.protocol)
    names = {field.name for field in fields(Protocol)}
    known = task.protocols[0]
    values = {name: recorded[name] for name in names & recorded.keys()}
    values["answers"] = tuple(values.get("answers") or ())
    try:
        if values.get("generation") is not None:
            written = dict(values["generation"])
            values["generation"] = Generation(**{**written, "stop": tuple(map(str, written["stop"]))})
        protocol = Protocol(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise _no_protocol(store, str(error)) from None
    for name in names - {"max_tokens", "generation"}:
        if type(getattr(protocol, name)) is not type(getattr(known, name)):
            raise _no_protocol(store, f"{name} is {getattr(protocol, name)!r:.40}")
    if protocol.site not in get_args(Site):
        raise _no_protocol(store, f"site is {protocol.site!r:.40}")
    if not isinstance(protocol.max_tokens, int | None) or not all(
        isinstance(a, str) for a in protocol.answers
    ):
        raise _no_protocol(store, "max_tokens or answers are not what they should be")
    for text in (protocol.context, protocol.continuation, protocol.prompt):
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise _no_protocol(store, str(error)) from None
        for _, used, form, conversion in parts:
            if used is not None and (not used.isidentifier() or form or conversion):
                raise _no_protocol(store, f"a template has the field {used!r:.40}")
    return protocol


def _no_protocol(store: ActivationStore, why: str) -> DamageError:
    msg = f"{store.name}: the recorded protocol cannot be used ({why}): build or pull the store again"
    return DamageError(msg)


def _recorded_template(store: ActivationStore) -> Mapping[str, Any] | None:
    """The arguments of the chat template; None where there was none."""
    record = store.manifest.model.get("chat_template")
    if not record:
        return None
    arguments = record.get("arguments") if isinstance(record, dict) else None
    if not isinstance(arguments, dict):
        msg = f"{store.name}: the recorded chat template has no arguments: build or pull the store again"
        raise DamageError(msg)
    return arguments


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
