"""Journalled blocks: outcomes of all their examples, and residuals that are read back piece by piece.

A block is two files. ``000012.residuals`` holds the raw values, layer by layer, example by example, nothing
else; ``000012.npz``, written after it, holds everything that is small, and where and with which checksum each
example's values stand. A block is there once its second file is.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import google_crc32c
import numpy as np

from wif_store.errors import BuildError
from wif_store.schema import FINAL_TOKEN, SEQUENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wif_store.places import Place
    from wif_store.records import Raw, Record
    from wif_store.schema import Int32

BLOCK: Final = re.compile(r"(\d{6})\.npz")


class Piece(NamedTuple):
    """One example's values of one layer: ``rows`` vectors from byte ``start`` of a block's residuals."""

    block: int
    start: int
    rows: int
    crc: int


@dataclass(frozen=True, slots=True)
class Block:
    """One block, without its residuals.

    Attributes:
        number: Which one it is.
        logprobs: float64 ``[n, most choices]``, NaN past an example's own choices.
        choice_tokens: int32 ``[n, most choices]``.
        prediction: int64 ``[n]``.
        cut: int64 ``[n]``.
        place: int64 ``[n]``, the row of each example among those that have residuals, -1 where it has none.
        prompts: The text read for each of those.
        offsets: int64 ``[rows + 1]`` into ``token_ids`` and the tokens of their sequences.
        token_ids: int32 ``[tokens]``.
        dtype: Of the raw values.
        d_model: Width of the residual stream.
        final_token_crc: uint32 ``[layers, rows]``.
        sequence_crc: uint32 ``[sequence_layers, rows]``.
    """

    number: int
    logprobs: np.ndarray
    choice_tokens: np.ndarray
    prediction: np.ndarray
    cut: np.ndarray
    place: np.ndarray
    prompts: list[str]
    offsets: np.ndarray
    token_ids: Int32
    dtype: str
    d_model: int
    final_token_crc: np.ndarray
    sequence_crc: np.ndarray

    def piece(self, array: str, index: int, row: int) -> Piece:
        """Where the values of a row stand that are to go into a layer of an array of the store."""
        width = self.d_model * np.dtype(self.dtype).itemsize
        layers, rows = self.final_token_crc.shape
        if array == FINAL_TOKEN:
            at, count, crc = index * rows + row, 1, self.final_token_crc
        else:
            begin, end = self.offsets[row : row + 2].tolist()
            at, count = layers * rows + index * int(self.offsets[-1]) + begin, end - begin
            crc = self.sequence_crc
        return Piece(self.number, at * width, count, int(crc[index, row]))


class Blocks:
    """The blocks of a journal. Each is written once, by whoever extracted it."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def numbers(self) -> set[int]:
        """Those that are whole."""
        found = map(BLOCK.fullmatch, self._place.sizes())
        return {int(match[1]) for match in found if match}

    def write(self, number: int, records: Sequence[Record], wanted: Sequence[bool]) -> None:
        """Write one block; residuals only of the ``wanted`` records. Durable once this returns."""
        kept = [r for r, want in zip(records, wanted, strict=True) if want]
        checksums: dict[str, list[int]] = {FINAL_TOKEN: [], SEQUENCE: []}
        self._place.write(f"{number:06d}.residuals", _residuals(kept, checksums))
        labels = io.BytesIO()
        np.savez(
            labels,
            logprobs=_table([r.logprobs for r in records], np.nan),
            choice_tokens=_table([r.choice_tokens for r in records], 0),
            prediction=np.array([r.prediction for r in records]),
            cut=np.array([r.cut for r in records]),
            place=np.where(wanted, np.cumsum(wanted) - 1, -1),
            prompts=np.frombuffer(json.dumps([r.prompt for r in kept]).encode(), np.uint8),
            offsets=np.cumsum([0, *(len(r.token_ids) for r in kept)]),
            token_ids=np.concatenate([r.token_ids for r in kept]) if kept else np.zeros(0, np.int32),
            dtype=np.array(records[0].final_token.dtype.str),
            d_model=np.array(records[0].final_token.shape[-1]),
            final_token_crc=np.array(checksums[FINAL_TOKEN], np.uint32).reshape(-1, max(1, len(kept))),
            sequence_crc=np.array(checksums[SEQUENCE], np.uint32).reshape(-1, max(1, len(kept))),
        )
        self._place.write(f"{number:06d}.npz", [labels.getbuffer()])

    def block(self, number: int) -> Block:
        """Read one block back, without its residuals.

        Raises:
            BuildError: If it is not what was written.
        """
        content = self._place.read(f"{number:06d}.npz")
        try:
            with np.load(io.BytesIO(content)) as labels:
                values = {name: labels[name] for name in labels.files}
            return Block(
                **values
                | {
                    "number": number,
                    "prompts": json.loads(values["prompts"].tobytes()),
                    "dtype": str(values["dtype"]),
                    "d_model": int(values["d_model"]),
                }
            )
        except Exception:
            # What is damaged makes numpy raise many kinds, of its own and of zip, zlib and tokenize.
            raise self._damaged(number) from None

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
        for run in _runs(pieces, width, self._place.gap):
            first, last = run[0], run[-1]
            stop = last.start + last.rows * width
            try:
                found = self._place.read(f"{first.block:06d}.residuals", first.start, stop)
            except FileNotFoundError:
                raise self._damaged(first.block) from None
            content = np.frombuffer(found, np.uint8)
            for piece in run:
                begin, size = piece.start - first.start, piece.rows * width
                part = content[begin : begin + size]
                if len(part) != size or google_crc32c.value(part) != piece.crc:
                    raise self._damaged(piece.block)
                room[at : at + size] = part
                at += size
        return values

    def _damaged(self, number: int) -> BuildError:
        name = f"{self._place}/{number:06d}"
        return BuildError(f"{name} is damaged: delete {name}.npz and run the same command again")


def _residuals(kept: Sequence[Record], checksums: dict[str, list[int]]) -> Iterator[memoryview]:
    """The values of a block in their order, noting the checksum of each example's."""
    if not kept:
        return
    for index in range(len(kept[0].final_token)):
        # Vectors are small: a layer of them is written at once.
        vectors = np.stack([record.final_token[index] for record in kept]).view(np.uint8)
        checksums[FINAL_TOKEN] += map(google_crc32c.value, vectors)
        yield vectors.data
    for index in range(len(kept[0].sequence)):
        for record in kept:
            sequence = np.ascontiguousarray(record.sequence[index]).view(np.uint8)
            checksums[SEQUENCE].append(google_crc32c.value(sequence))
            yield sequence.data


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
