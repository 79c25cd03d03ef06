"""Numerical truth: a sample of a store, computed again from the revisions that it records."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from wif_store.errors import DamageError
from wif_store.extract.hooks import Capture
from wif_store.extract.memory import memory_errors
from wif_store.extract.replay import TOLERANCES, NoRowsError, differs, load_recorded, open_replay
from wif_store.extract.transfer import to_numpy
from wif_store.extract.trees import grow, pad
from wif_store.format.schema import PROMPT_END, SPLITS
from wif_store.records import Written, widen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wif_store.extract.model import Model
    from wif_store.extract.replay import Replay, Tolerance
    from wif_store.format.schema import Example, Float32
    from wif_store.store.reader import ActivationStore


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
    store: ActivationStore,
    count: int,
    *,
    model: str | None = None,
    source: str | None = None,
    adapter: str | None = None,
) -> Recomputed:
    """Compute ``count`` examples, spread over the splits, again, and compare.

    Residuals are recomputed from the stored tokens, one example at a time; tokens, log-likelihoods and labels
    from the row of the source, under the protocol that the store records.

    Args:
        store: An open store.
        count: How many examples.
        model: Where the model is, if not where the store says; its revision must be the recorded one.
        source: Where the rows are, likewise.
        adapter: Where the model's adapter is, likewise.

    Raises:
        ModelError: If the model cannot be had, or is not the recorded revision.
        SourceError: If the rows cannot be had, or are not the recorded ones.
        DamageError: If something differs by more than rounding does; the first such example is named.

    Example::

        print(wif_store.recompute(store, 4, model="gemma3-270m", source="builtin"))
    """
    loaded = load_recorded(store, model, adapter)
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
    without = ""
    try:
        replay = open_replay(store, loaded, source)
    except NoRowsError as error:
        without = str(error)
    else:
        _check_labels(replay, examples)
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
    with (
        capture.reading(model.layers, rows.nodes[at], rows.nodes),
        memory_errors(f"example {example.id}", "use a device with more memory"),
    ):
        model.decoder.states(rows)
    vectors = capture.final_tokens(torch.arange(len(at), device=model.device))
    sequences = capture.sequences(torch.arange(len(ids), device=model.device))
    return widen(to_numpy(vectors.cpu())), widen(to_numpy(sequences.cpu()))


def _relative(stored: Float32, computed: Float32) -> np.ndarray:
    gap = np.linalg.norm((stored - computed).astype(np.float64), axis=-1)
    return np.asarray(gap / np.linalg.norm(computed.astype(np.float64), axis=-1))


def _check_labels(replay: Replay, examples: Sequence[Example]) -> None:
    """Score the rows of the source again.

    Raises:
        DamageError: If something differs by more than rounding does.
    """
    for example in examples:
        replay.candidate(example)
        if example.response is not None:
            _check_response(replay, example)
        else:
            [scored] = replay.extractor([replay.request(example)])
            replay.check_choice(example, scored)


def _check_response(replay: Replay, example: Example) -> None:
    """Hold a response against its row: the prompt's tokens, the log-likelihood and the verdict.

    Nothing is written again: of two tokens within rounding of each other either may be the likelier.

    Raises:
        DamageError: If something differs by more than rounding does.
    """
    store, extract, tolerance = replay.store, replay.extractor, replay.tolerance
    response, ids = example.response, example.token_ids.tolist()
    assert response is not None
    request = replay.request(example)
    [encoded] = extract.encoder.encode([request])
    given = request.pairs[0][1]
    written = extract.model.tokenizer.decode(ids[response.prompt_tokens :], skip_special_tokens=True)
    same = (
        encoded.contexts[0] == ids[: response.prompt_tokens],
        encoded.texts[0] == example.prompt,
        given in ("", response.response),
        given or str(written).startswith(response.response),
        replay.candidate(example).targets == response.targets,
    )
    if not all(same):
        raise differs(store, example, "prompt, targets or tokens")
    answered = replace(
        encoded, continuations=(ids[response.prompt_tokens :],), written=Written(response.response, "given")
    )
    [record] = extract.read([answered])
    count = max(1, len(ids) - response.prompt_tokens)
    assert record.written is not None
    apart = abs(float(record.logprobs[0]) - response.response_logprob)
    apart_least = abs(record.written.least_logprob - response.least_logprob)
    if apart > tolerance.nats * count or apart_least > tolerance.nats:
        raise differs(store, example, "log-likelihoods")
    verdict = replay.judge(example)(record.answer)
    if (int(verdict.success), verdict.answer) != (example.success, response.answer):
        raise differs(store, example, "verdict")
