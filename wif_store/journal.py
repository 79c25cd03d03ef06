"""The unfinished build on disk: blocks of records, each written once, whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from wif_store.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wif_store.records import Raw, Record
    from wif_store.schema import Int32


@dataclass(frozen=True, slots=True)
class Block:
    """One journalled block: outcomes of all its examples, residuals of those that may be kept.

    Attributes:
        logprobs: float64 ``[n, most choices]``, NaN past an example's own choices.
        choice_tokens: int32 ``[n, most choices]``.
        prediction: int64 ``[n]``.
        cut: int64 ``[n]``.
        place: int64 ``[n]``, the row of each example among the kept ones, -1 where it has none.
        prompts: The text read for each kept example.
        offsets: int64 ``[kept + 1]`` into ``token_ids`` and the tokens of ``sequence``.
        token_ids: int32 ``[tokens]``.
        final_token: raw ``[layers, kept, d_model]``, mapped from the file.
        sequence: raw ``[sequence_layers, tokens, d_model]``, mapped from the file.
    """

    logprobs: np.ndarray
    choice_tokens: np.ndarray
    prediction: np.ndarray
    cut: np.ndarray
    place: np.ndarray
    prompts: list[str]
    offsets: np.ndarray
    token_ids: Int32
    final_token: Raw
    sequence: Raw


class Journal:
    """The folder ``OUT.partial`` of a build in progress, held by one process at a time."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.folder = out.with_name(out.name + ".partial")
        self.staged = self.folder / "store"
        self._blocks = self.folder / "blocks"
        self._plan = self.folder / "plan.json"
        self._lock: IO[str] | None = None

    def open(self, plan: dict[str, Any]) -> None:
        """Create the journal, or take up the one that the same plan has left.

        Raises:
            BuildError: If another process holds it, or it belongs to a build with other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            msg = f"another build is writing {self.folder}: wait for it, or choose another --out"
            raise BuildError(msg) from None
        if self._out.exists():
            self._lock.close()
            msg = f"another build has just finished {self._out}: run the same command again to see that"
            raise BuildError(msg)
        if self._plan.exists():
            self._check_same(plan)
        else:
            write_file(self._plan, json.dumps(plan, indent=1).encode())

    def _check_same(self, plan: dict[str, Any]) -> None:
        found = json.loads(self._plan.read_bytes())
        wanted = json.loads(json.dumps(plan))
        differing = sorted(k for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k))
        if differing:
            name = differing[0]
            msg = (
                f"{self.folder} holds an unfinished build with another {', '.join(differing)} "
                f"({name}: found {short(found.get(name))}, expected {short(wanted.get(name))}): "
                "repeat its own command, choose another --out, or delete it"
            )
            raise BuildError(msg)

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.close()

    def discard(self) -> None:
        """Remove the journal of a finished build."""
        # Held until it is gone: who waits for it must not take a half of it for a new one.
        shutil.rmtree(self.folder)
        self.close()

    def discard_left(self, plan: dict[str, Any]) -> None:
        """Remove what is left of the journal of a build that was killed when its store was whole."""
        if not self.folder.is_dir():
            return
        with (self.folder / "lock").open("w") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The plan may be gone already; another plan is the journal of another build.
            if not self._plan.exists() or json.loads(self._plan.read_bytes()) == json.loads(json.dumps(plan)):
                shutil.rmtree(self.folder)

    def has(self, number: int) -> bool:
        """Whether block ``number`` is whole on disk."""
        return (self._blocks / f"{number:06d}").is_dir()

    def write(self, number: int, records: Sequence[Record], wanted: Sequence[bool]) -> None:
        """Write one block; residuals only of the ``wanted`` records. Durable once this returns."""
        kept = [r for r, want in zip(records, wanted, strict=True) if want]
        place = np.cumsum(wanted) - 1
        most = max(len(r.logprobs) for r in records)
        folder = self._blocks / f"{number:06d}"
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        final = np.stack([r.final_token for r in kept], axis=1) if kept else np.zeros((0, 0, 0), np.float32)
        sequence = (
            np.concatenate([r.sequence for r in kept], axis=1) if kept else np.zeros((0, 0, 0), np.float32)
        )
        _save(partial / "final_token.npy", final)
        _save(partial / "sequence.npy", sequence)
        np.savez(
            partial / "labels.npz",
            logprobs=np.stack([_padded(r.logprobs, most, np.nan) for r in records]),
            choice_tokens=np.stack([_padded(r.choice_tokens, most, 0) for r in records]),
            prediction=np.array([r.prediction for r in records]),
            cut=np.array([r.cut for r in records]),
            place=np.where(wanted, place, -1),
            prompts=np.frombuffer(json.dumps([r.prompt for r in kept]).encode(), np.uint8),
            offsets=np.cumsum([0, *(len(r.token_ids) for r in kept)]),
            token_ids=np.concatenate([r.token_ids for r in kept]) if kept else np.zeros(0, np.int32),
            checksums=np.array([_crc(final), _crc(sequence)]),
            layout=_layout(final, sequence),
        )
        for path in partial.iterdir():
            sync(path)
        partial.rename(folder)
        sync(self._blocks)

    def read(self, number: int, *, check: bool = False) -> Block:
        """Read one block back; residuals stay on disk until they are touched.

        Raises:
            BuildError: With ``check``, if the residuals are not those that were written.
        """
        folder = self._blocks / f"{number:06d}"
        try:
            final = np.load(folder / "final_token.npy", mmap_mode="r")
            sequence = np.load(folder / "sequence.npy", mmap_mode="r")
            with np.load(folder / "labels.npz") as labels:
                values = {name: labels[name] for name in labels.files}
            checksums = values.pop("checksums").tolist()
            # A journal that was begun before layouts were noted has none.
            whole = values.pop("layout", None) in (None, _layout(final, sequence))
            if check:
                whole = whole and checksums == [_crc(final), _crc(sequence)]
            values["prompts"] = json.loads(values["prompts"].tobytes())
            block = Block(final_token=final, sequence=sequence, **values)
        except Exception:
            # What is damaged makes numpy raise many kinds, of its own and of zip, zlib and tokenize.
            whole = False
        if not whole:
            msg = f"{folder} is damaged: delete that folder and run the same command again"
            raise BuildError(msg)
        return block


def short(value: Any) -> str:
    """A value as it is shown in an error: one line, not too long."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, and durable once this returns."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _padded(values: np.ndarray, width: int, fill: float) -> np.ndarray:
    return np.pad(values, (0, width - len(values)), constant_values=fill)


def _save(path: Path, values: np.ndarray) -> None:
    """``numpy.save``, but for a full disk's error: numpy's own does not say that the disk is full."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
        file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def _layout(*arrays: np.ndarray) -> str:
    """Types and shapes, which a checksum of the values does not cover."""
    return json.dumps([[a.dtype.str, a.shape] for a in arrays])


def _crc(values: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data.cast("B")) if values.size else 0
