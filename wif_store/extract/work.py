"""What is run for one example: its trees, the tokens that are scored, the sequences that may be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wif_store.extract.trees import Tree, grow

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from wif_store.extract.decoder import Decoder
    from wif_store.extract.tokenize import Encoded
    from wif_store.format.schema import Int32
    from wif_store.tasks.base import Protocol


@dataclass(frozen=True, slots=True)
class Work:
    """One example, with every token addressed by its *node*: its index among the example's trees, end to end.

    Attributes:
        encoded: The example.
        trees: The rows that are run.
        node: int64 ``[n]``, the nodes whose states predict scored tokens.
        row: int64 ``[m]``, which of them predicts each scored token: one may do so for several choices.
        token: int64 ``[m]``, the scored tokens.
        choice: int64 ``[m]``, the choice whose log-likelihood each one adds to.
        factor: float64 ``[choices]``, by which the sums are multiplied.
        readings: The nodes of each sequence that may be read: one sequence, or one for each choice, of which
            that of the preferred choice is read.
        context_ends: int64, ascending, the nodes of the last token of each context; what follows is scored.
        prompt_end: The node of the last token of the prompt, where a response follows it; else None.
    """

    encoded: Encoded
    trees: list[Tree]
    node: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    token: npt.NDArray[np.int64]
    choice: npt.NDArray[np.int64]
    factor: npt.NDArray[np.float64]
    readings: list[npt.NDArray[np.int64]]
    context_ends: npt.NDArray[np.int64]
    prompt_end: int | None = None

    def __len__(self) -> int:
        """How many tokens are run."""
        return sum(map(len, self.trees))

    def reading(self, answer: int) -> int:
        """Which of the readings is read where the model answers ``answer``."""
        return answer if len(self.readings) > 1 else 0

    def tokens(self, nodes: npt.NDArray[np.int64]) -> Int32:
        """The tokens at ``nodes``."""
        return np.concatenate([tree.tokens for tree in self.trees])[nodes].astype(np.int32)

    def answer_mass(self, logprobs: npt.NDArray[np.float64]) -> float:
        """The probability that the model goes on with one of the scored answers.

        Args:
            logprobs: float64 ``[choices]``, the summed log-likelihoods.

        Returns:
            0 to 1; NaN where the answers do not follow one context, their likelihoods are scaled, or the
            answer is a response.
        """
        contexts, answers = self.encoded.contexts, self.encoded.continuations
        scored = self.prompt_end is None and np.all(self.factor == 1)
        if not scored or any(context != contexts[0] for context in contexts):
            return float("nan")
        distinct = {tuple(answer): logprob for answer, logprob in zip(answers, logprobs, strict=True)}
        # An answer that begins with another one is counted by that one.
        counted = [
            logprob
            for answer, logprob in distinct.items()
            if not any(answer[:n] in distinct for n in range(1, len(answer)))
        ]
        return float(np.exp(counted).sum())


def plan_work(encoded: Encoded, protocol: Protocol, decoder: Decoder) -> Work:
    """Lay out one example.

    Sequences that begin alike share a tree where the decoder takes trees. Some decoders compute long
    sequences in another way than short ones. Then a tree holds sequences of one kind, and a context that is
    read runs as one of its own kind, so that every number is what the sequence gives by itself.

    Args:
        encoded: The example as tokens.
        protocol: What is scored and read.
        decoder: What runs it.
    """
    full = [c + t for c, t in zip(encoded.contexts, encoded.continuations, strict=True)]
    # The last token predicts nothing: it is run only where it is read.
    whole = protocol.site in ("preferred", "response")
    sequences = full if whole else [w[:-1] for w in full]
    trees, paths = _grown(sequences, decoder)
    begins = [len(context) for context in encoded.contexts]
    if protocol.site == "prompt":
        readings = [_added(encoded.read or [], trees)]
    elif whole:
        readings = paths
    elif decoder.is_long(begins[0]) == decoder.is_long(len(sequences[0])):
        readings = [paths[0][: begins[0]]]
    else:
        readings = [_added(encoded.contexts[0], trees)]
    lengths = np.array([len(w) for w in full], dtype=np.float64)
    scored = list(zip(paths, full, begins, strict=True))
    node, row = np.unique(
        np.concatenate([path[begin - 1 : len(tokens) - 1] for path, tokens, begin in scored]),
        return_inverse=True,
    )
    return Work(
        encoded,
        trees,
        node=node,
        row=row,
        token=np.concatenate([np.array(tokens[begin:], np.int64) for _, tokens, begin in scored]),
        choice=np.repeat(np.arange(len(full)), [len(t) for t in encoded.continuations]),
        # A mean over the n - 1 predicted tokens of an n-token sequence, times n.
        factor=lengths / (lengths - 1) if protocol.scale_by_length else np.ones_like(lengths),
        readings=readings,
        context_ends=np.unique([path[begin - 1] for path, begin in zip(paths, begins, strict=True)]),
        prompt_end=int(paths[0][begins[0] - 1]) if protocol.site == "response" else None,
    )


def _grown(
    sequences: Sequence[list[int]], decoder: Decoder
) -> tuple[list[Tree], list[npt.NDArray[np.int64]]]:
    """The trees of sequences, and the nodes of each sequence."""
    kinds = [decoder.is_long(len(sequence)) if decoder.trees else n for n, sequence in enumerate(sequences)]
    trees: list[Tree] = []
    paths: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)] * len(sequences)
    for kind in dict.fromkeys(kinds):
        members = [n for n, other in enumerate(kinds) if other == kind]
        start = sum(map(len, trees))
        trees.append(grow([sequences[n] for n in members]))
        for n, path in zip(members, trees[-1].paths, strict=True):
            paths[n] = start + path
    return trees, paths


def _added(sequence: list[int], trees: list[Tree]) -> npt.NDArray[np.int64]:
    """Add a sequence as a row of its own; its nodes."""
    start = sum(map(len, trees))
    trees.append(grow([sequence]))
    return start + trees[-1].paths[0]
