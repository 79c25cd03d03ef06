"""What is run for one example: its trees, the tokens that are scored, the sequences that may be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wif_store.extract.trees import Tree, grow

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from wif_store.extract.tokenize import Encoded
    from wif_store.format.schema import Int32
    from wif_store.tasks.base import Protocol


@dataclass(frozen=True, slots=True)
class Job:
    """One example, with every token addressed by its *node*: its place among the job's trees, end to end.

    Attributes:
        encoded: The example.
        trees: The rows that are run.
        node: int64 ``[n]``, the nodes whose states predict scored tokens.
        place: int64 ``[m]``, which of them predicts each scored token: one may do so for several choices.
        token: int64 ``[m]``, the scored tokens.
        choice: int64 ``[m]``, the choice whose log-likelihood each one adds to.
        factor: float64 ``[choices]``, by which the sums are multiplied.
        readings: The nodes of each sequence that may be read: one, or one for each choice, of
            which that of the preferred choice is.
    """

    encoded: Encoded
    trees: list[Tree]
    node: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    token: npt.NDArray[np.int64]
    choice: npt.NDArray[np.int64]
    factor: npt.NDArray[np.float64]
    readings: list[npt.NDArray[np.int64]]

    def __len__(self) -> int:
        """How many tokens are run."""
        return sum(map(len, self.trees))

    def reading(self, answer: int) -> int:
        """Which of the readings is read where the model answers ``answer``."""
        return answer if len(self.readings) > 1 else 0

    def tokens(self, nodes: npt.NDArray[np.int64]) -> Int32:
        """The tokens at ``nodes``."""
        return np.concatenate([tree.tokens for tree in self.trees])[nodes].astype(np.int32)


def plan(encoded: Encoded, protocol: Protocol, *, trees: bool) -> Job:
    """Lay out one example.

    Args:
        encoded: The example as tokens.
        protocol: What is scored and read.
        trees: Whether sequences that begin alike may share a row.
    """
    wholes = [c + t for c, t in zip(encoded.contexts, encoded.continuations, strict=True)]
    # The last token predicts nothing: it is run only where it is read.
    sequences = wholes if protocol.site == "preferred" else [w[:-1] for w in wholes]
    rows: list[Sequence[list[int]]] = [sequences] if trees else [[s] for s in sequences]
    if encoded.read is not None:
        rows.append([encoded.read])
    grown = [grow(row) for row in rows]
    starts = np.cumsum([0, *map(len, grown)])
    paths = [start + path for start, tree in zip(starts, grown, strict=False) for path in tree.paths]
    begins = [len(c) for c in encoded.contexts]
    if protocol.site == "context":
        readings = [paths[0][: begins[0]]]
    else:
        readings = paths if protocol.site == "preferred" else paths[-1:]
    lengths = np.array([len(w) for w in wholes], dtype=np.float64)
    scored = list(zip(paths, wholes, begins, strict=False))
    node, place = np.unique(
        np.concatenate([path[begin - 1 : len(whole) - 1] for path, whole, begin in scored]),
        return_inverse=True,
    )
    return Job(
        encoded,
        grown,
        node=node,
        place=place,
        token=np.concatenate([whole[begin:] for _, whole, begin in scored]),
        choice=np.repeat(np.arange(len(wholes)), [len(t) for t in encoded.continuations]),
        # A mean over the n - 1 predicted tokens of an n-token sequence, times n.
        factor=lengths / (lengths - 1) if protocol.scale_by_length else np.ones_like(lengths),
        readings=readings,
    )
