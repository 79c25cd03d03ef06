"""The log-likelihood of every choice, and with it the model's answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from wif_store.extract.batching import Padded, pad, positions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from wif_store.extract.model import Model
    from wif_store.extract.tokenize import Encoded

LOGITS_BYTES = 256 * 2**20
"""How many bytes of float32 logits are held at once."""


@dataclass(slots=True)
class Targets:
    """Which tokens to score, each from the state of the token before it.

    Parallel lists: the flat position of the state, the token, and the slot its log-probability is
    added to.
    """

    state: list[int]
    token: list[int]
    slot: list[int]


def score_shared(
    model: Model, batch: Sequence[Encoded], contexts: Padded, reading: AbstractContextManager[None]
) -> list[npt.NDArray[np.float64]]:
    """Score choices that share their context: it is run once, and its cache serves the continuations.

    The contexts stand left-padded in ``contexts``; their pass runs within ``reading``. A choice of a
    single token costs nothing beyond it.
    """
    slots, offsets = _slots(batch)
    more = [(i, c) for i, e in enumerate(batch) for c, t in enumerate(e.continuations) if len(t) > 1]
    with reading:
        out = model.decoder(
            input_ids=contexts.ids,
            attention_mask=contexts.mask,
            position_ids=positions(contexts.mask),
            use_cache=bool(more),
        )
    first = Targets([], [], [])
    for i, encoded in enumerate(batch):
        for choice, tokens in enumerate(encoded.continuations):
            first.state.append(i)
            first.token.append(tokens[0])
            first.slot.append(offsets[i] + choice)
    _add_log_probs(model, out.last_hidden_state[:, -1], first, slots)
    if more:
        rest = pad([batch[i].continuations[c][:-1] for i, c in more], contexts.ids.device, left=False)
        rows = torch.tensor([i for i, _ in more], device=contexts.ids.device)
        cache = out.past_key_values
        cache.batch_select_indices(rows)
        # The context ends where the continuation begins: distances in the cache are distances in
        # the text, which sliding-window attention relies on.
        start = contexts.mask.sum(-1, keepdim=True)[rows]
        hidden = model.decoder(
            input_ids=rest.ids,
            attention_mask=torch.cat([contexts.mask[rows], rest.mask], dim=1),
            position_ids=start + positions(rest.mask),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        width = rest.ids.shape[1]
        later = Targets([], [], [])
        for row, (i, choice) in enumerate(more):
            for at, token in enumerate(batch[i].continuations[choice][1:]):
                later.state.append(row * width + at)
                later.token.append(token)
                later.slot.append(offsets[i] + choice)
        _add_log_probs(model, hidden.flatten(0, 1), later, slots)
    return _per_example(slots, batch)


def score_whole(
    model: Model, batch: Sequence[Encoded], sequences: Padded, reading: AbstractContextManager[None]
) -> list[npt.NDArray[np.float64]]:
    """Score choices whose contexts differ: every choice's whole sequence is run, within ``reading``.

    ``sequences`` holds, left-padded, context and continuation of each choice of each example in turn.
    """
    slots, offsets = _slots(batch)
    with reading:
        hidden = model.decoder(
            input_ids=sequences.ids,
            attention_mask=sequences.mask,
            position_ids=positions(sequences.mask),
            use_cache=False,
        ).last_hidden_state
    width = sequences.ids.shape[1]
    targets = Targets([], [], [])
    for i, encoded in enumerate(batch):
        for choice, tokens in enumerate(encoded.continuations):
            row = offsets[i] + choice
            for back, token in enumerate(reversed(tokens), 2):
                targets.state.append((row + 1) * width - back)
                targets.token.append(token)
                targets.slot.append(row)
    _add_log_probs(model, hidden.flatten(0, 1), targets, slots)
    return _per_example(slots, batch)


def whole_sequences(batch: Sequence[Encoded]) -> list[list[int]]:
    """Context and continuation of each choice of each example in turn."""
    return [c + t for e in batch for c, t in zip(e.contexts, e.continuations, strict=True)]


def _slots(batch: Sequence[Encoded]) -> tuple[npt.NDArray[np.float64], list[int]]:
    counts = [len(e.continuations) for e in batch]
    return np.zeros(sum(counts)), [sum(counts[:i]) for i in range(len(counts))]


def _per_example(slots: npt.NDArray[np.float64], batch: Sequence[Encoded]) -> list[npt.NDArray[np.float64]]:
    return np.split(slots, np.cumsum([len(e.continuations) for e in batch])[:-1])


def _add_log_probs(
    model: Model, hidden: torch.Tensor, targets: Targets, slots: npt.NDArray[np.float64]
) -> None:
    """Add each target's log-probability, computed in float32, to its slot.

    The vocabulary is projected at scored positions only, once per position, and in pieces.
    """
    unique, place = np.unique(np.asarray(targets.state, dtype=np.int64), return_inverse=True)
    token = np.asarray(targets.token, dtype=np.int64)
    picked = np.empty(len(token))
    order = np.argsort(place, kind="stable")
    step = max(1, LOGITS_BYTES // (4 * model.vocabulary))
    for start in range(0, len(unique), step):
        states = torch.from_numpy(unique[start : start + step]).to(hidden.device)
        logits = model.logits(hidden.index_select(0, states))
        among = order[
            np.searchsorted(place[order], start) : np.searchsorted(place[order], start + len(states))
        ]
        row = torch.from_numpy(place[among] - start).to(hidden.device)
        column = torch.from_numpy(token[among]).to(hidden.device)
        picked[among] = (logits[row, column].float() - _logsumexp(logits)[row]).cpu().numpy()
    np.add.at(slots, np.asarray(targets.slot), picked)


def _logsumexp(logits: torch.Tensor) -> torch.Tensor:
    """``[n, vocabulary]`` -> float32 ``[n]``; on a CPU row by row, so that a row stays in its cache."""
    rows = 1 if logits.device.type == "cpu" else len(logits)
    return torch.cat([piece.float().logsumexp(-1) for piece in logits.split(rows)])  # type: ignore[no-untyped-call]
