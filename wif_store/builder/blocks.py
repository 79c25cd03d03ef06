"""Journalled blocks: outcomes of all their examples, and residuals that are read back piece by piece.

A block is two files. ``train-000012.residuals`` holds the raw values and nothing else: the vectors of each
layer, then of each layer the sequences, example by example. ``train-000012.npz``, written after it, holds
everything that is small, and the checksums: of each layer's vectors and of each sequence. A block is there
once that file is. The residuals are removed when the store has them.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import google_crc32c
import numpy as np

from wif_store.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wif_store.format.schema import Int32
    from wif_store.records import Raw, Record
    from wif_store.storage import Storage
    from wif_store.tasks.judges import Judge

BLOCK: Final = re.compile(r"(\w+-\d{6})\.npz")
RESIDUALS: Final = ".residuals"


@dataclass(frozen=True, slots=True)
class Judged:
    """What the judges say of an example: of its answer, and of every sample where it has several."""

    success: bool
    answer: str
    rate: float

    @classmethod
    def by(cls, judge: Judge, record: Record) -> Judged:
        """Ask a judge about a record."""
        first = judge(record.answer)
        others = record.written.others if record.written else ()
        verdicts = [first, *(judge(replace(record.answer, response=text)) for text in others)]
        return cls(first.success, first.answer, sum(v.success for v in verdicts) / len(verdicts))


class Piece(NamedTuple):
    """Values that are read together: ``rows`` vectors from byte ``start`` of a block's residuals."""

    block: str
    start: int
    rows: int
    crc: int


@dataclass(frozen=True, slots=True)
class Block:
    """One block, without its residuals.

    Attributes:
        name: Which one it is.
        logprobs: float64 ``[n, most choices]``, NaN past an example's own choices.
        choice_tokens: int32 ``[n, most choices]``.
        prediction: int64 ``[n]``.
        success: bool ``[n]``, whether the answers are right.
        cut: int64 ``[n]``.
        mass: float64 ``[n]``, the probability mass of the scored answers; NaN where it is not known.
        row: int64 ``[n]``, the row of each example among those that have residuals, -1 where it has none.
        texts: The text read for each of those, and what was written after it.
        offsets: int64 ``[rows + 1]`` into ``token_ids`` and the tokens of their sequences.
        token_ids: int32 ``[tokens]``.
        dtype: Of the raw values.
        d_model: Width of the residual stream.
        vectors_crc: uint32 ``[sites * layers]``.
        sequence_crc: uint32 ``[sequence_layers, rows]``.
        batch_tokens: How many tokens a batch had at most, where batches as planned did not fit into
            memory; else 0.
    """

    name: str
    logprobs: np.ndarray
    choice_tokens: np.ndarray
    prediction: np.ndarray
    success: np.ndarray
    cut: np.ndarray
    mass: np.ndarray
    row: np.ndarray
    texts: list[dict[str, Any]]
    offsets: np.ndarray
    token_ids: Int32
    dtype: str
    d_model: int
    vectors_crc: np.ndarray
    sequence_crc: np.ndarray
    batch_tokens: int

    @property
    def rows(self) -> int:
        """How many examples have residuals."""
        return len(self.offsets) - 1

    def vectors(self, index: int) -> Piece:
        """The vectors of all rows that are to go into a layer of the store."""
        return Piece(self.name, index * self.rows * self._width, self.rows, int(self.vectors_crc[index]))

    def sequence(self, index: int, row: int) -> Piece:
        """The sequence of a row that is to go into a layer of the store."""
        begin, end = self.offsets[row : row + 2].tolist()
        before = len(self.vectors_crc) * self.rows + index * int(self.offsets[-1])
        return Piece(
            self.name, (before + begin) * self._width, end - begin, int(self.sequence_crc[index, row])
        )

    @property
    def _width(self) -> int:
        return self.d_model * np.dtype(self.dtype).itemsize


class Blocks:
    """The blocks of a journal. Each is written once, by whoever extracted it."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def names(self) -> set[str]:
        """Those that are complete."""
        found = map(BLOCK.fullmatch, self._storage.sizes())
        return {match[1] for match in found if match}

    def with_residuals(self) -> set[str]:
        """Those whose residuals are still there."""
        names = self._storage.sizes()
        return {name.removesuffix(RESIDUALS) for name in names if name.endswith(RESIDUALS)}

    def remove_residuals(self, name: str) -> None:
        """Remove the residuals of a block, which the store has or does not need; what is small stays."""
        self._storage.remove(name + RESIDUALS)

    def write(
        self, name: str, records: Sequence[Record], judged: Sequence[Judged], wanted: Sequence[bool]
    ) -> None:
        """Write one block; residuals only of the ``wanted`` records. Durable once this returns."""
        kept = [r for r, want in zip(records, wanted, strict=True) if want]
        texts = [_texts(r, j) for r, j, want in zip(records, judged, wanted, strict=True) if want]
        vectors_crc: list[int] = []
        sequence_crc: list[int] = []
        self._storage.write(name + RESIDUALS, _residuals(kept, vectors_crc, sequence_crc))
        labels = io.BytesIO()
        np.savez(
            labels,
            logprobs=_table([r.logprobs for r in records], np.nan),
            choice_tokens=_table([r.choice_tokens for r in records], 0),
            prediction=np.array([r.prediction for r in records]),
            success=np.array([j.success for j in judged]),
            cut=np.array([r.cut for r in records]),
            mass=np.array([r.answer_mass for r in records]),
            row=np.where(wanted, np.cumsum(wanted) - 1, -1),
            texts=np.frombuffer(json.dumps(texts).encode(), np.uint8),
            offsets=np.cumsum([0, *(len(r.token_ids) for r in kept)]),
            token_ids=np.concatenate([r.token_ids for r in kept]) if kept else np.zeros(0, np.int32),
            dtype=np.array(records[0].final_token.dtype.str),
            d_model=np.array(records[0].final_token.shape[-1]),
            vectors_crc=np.array(vectors_crc, np.uint32),
            sequence_crc=np.array(sequence_crc, np.uint32).reshape(-1, max(1, len(kept))),
            batch_tokens=np.array(records[0].batch_tokens),
        )
        self._storage.write(f"{name}.npz", [labels.getvalue()])

    def block(self, name: str) -> Block:
        """Read one block back, without its residuals.

        Raises:
            BuildError: If it is not what was written.
        """
        content = self._storage.read(f"{name}.npz")
        try:
            with np.load(io.BytesIO(content)) as labels:
                values = {name: labels[name] for name in labels.files}
            return Block(
                **values
                | {
                    "name": name,
                    "texts": json.loads(values["texts"].tobytes()),
                    "dtype": str(values["dtype"]),
                    "d_model": int(values["d_model"]),
                    "batch_tokens": int(values["batch_tokens"]),
                }
            )
        except (ImportError, MemoryError):
            raise
        except Exception:
            # What is damaged makes numpy raise many kinds, of its own and of zip, zlib and tokenize.
            raise self._damaged(name) from None

    def read(self, pieces: Sequence[Piece], dtype: str, d_model: int) -> Raw:
        """Residuals of some pieces, end to end, each held against its checksum.

        Returns:
            raw ``[rows, d_model]``.

        Raises:
            BuildError: If they are not those that were written.
        """
        width = d_model * np.dtype(dtype).itemsize
        values = np.empty((sum(p.rows for p in pieces), d_model), dtype)
        room, at = values.reshape(-1).view(np.uint8), 0
        for run in _runs(pieces, width, self._storage.gap):
            first, last = run[0], run[-1]
            stop = last.start + last.rows * width
            try:
                found = self._storage.read(first.block + RESIDUALS, first.start, stop)
            except FileNotFoundError:
                msg = (
                    f"{self._storage}/{first.block}{RESIDUALS} is gone, and a shard made of it too: delete "
                    f"{self._storage.parent} and run the same command again"
                )
                raise BuildError(msg) from None
            content = np.frombuffer(found, np.uint8)
            for piece in run:
                begin, size = piece.start - first.start, piece.rows * width
                part = content[begin : begin + size]
                if len(part) != size or google_crc32c.value(part) != piece.crc:
                    raise self._damaged(piece.block)
                room[at : at + size] = part
                at += size
        return values

    def _damaged(self, name: str) -> BuildError:
        path = f"{self._storage}/{name}"
        return BuildError(f"{path} is damaged: delete {path}.npz and run the same command again")


def _residuals(
    kept: Sequence[Record], vectors_crc: list[int], sequence_crc: list[int]
) -> Iterator[memoryview]:
    """The values of a block in their order, noting the checksums."""
    if not kept:
        return
    every = [record.vectors for record in kept]
    for index in range(len(every[0])):
        vectors = np.stack([vectors[index] for vectors in every]).view(np.uint8)
        vectors_crc.append(google_crc32c.value(vectors))
        yield vectors.data
    for index in range(len(kept[0].sequence)):
        for record in kept:
            sequence = np.ascontiguousarray(record.sequence[index]).view(np.uint8)
            sequence_crc.append(google_crc32c.value(sequence))
            yield sequence.data


def _texts(record: Record, judged: Judged) -> dict[str, Any]:
    """What the table of examples says of a record in words."""
    if record.written is None:
        return {"prompt": record.prompt}
    return {
        "prompt": record.prompt,
        "response": record.written.text,
        "answer": judged.answer,
        "finish_reason": record.written.finish_reason,
        "success_rate": judged.rate,
        "least_logprob": record.written.least_logprob,
    }


def _runs(pieces: Sequence[Piece], width: int, gap: int) -> Iterator[list[Piece]]:
    """Pieces that follow closely enough in one file to be read at once."""
    run: list[Piece] = []
    for piece in pieces:
        if run:
            stop = run[-1].start + run[-1].rows * width
            if piece.block != run[-1].block or not stop <= piece.start <= stop + gap:
                yield run
                run = []
        run.append(piece)
    if run:
        yield run


def _table(rows: Sequence[np.ndarray], fill: float) -> np.ndarray:
    """Rows of one type and of any length, filled up on the right."""
    table = np.full((len(rows), max(map(len, rows))), fill, rows[0].dtype)
    for filled, row in zip(table, rows, strict=True):
        filled[: len(row)] = row
    return table
