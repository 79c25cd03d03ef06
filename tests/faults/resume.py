"""What must hold of a build that was ended before its time, and of the same call that finishes it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.builds import Job, contents, wait
from wif_store.builder.journal import Journal
from wif_store.errors import StoreError
from wif_store.store.reader import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.report import Row

BLOCKS_REPEATED = 2
"""The block that was in the model, and the one before it, which was being journalled."""
SHARDS_REPEATED = 1


@dataclass(frozen=True)
class Work:
    """What a build has begun, in its order.

    Attributes:
        lines: ``block NAME``, ``shard PATH`` and ``gone NAME``.
    """

    lines: tuple[str, ...]

    @classmethod
    def of(cls, log: Path) -> Work:
        """What the log of a build says, as far as it came."""
        finished = log.read_text().rpartition("\n")[0] if log.exists() else ""
        return cls(tuple(finished.splitlines()))

    def named(self, kind: str) -> list[str]:
        """The names of one kind."""
        return [line.removeprefix(f"{kind} ") for line in self.lines if line.startswith(f"{kind} ")]

    @property
    def scan(self) -> tuple[str, ...]:
        """The lines up to the last block that the model began."""
        last = max((i for i, line in enumerate(self.lines) if line.startswith("block ")), default=-1)
        return self.lines[: last + 1]


@dataclass(frozen=True)
class Undisturbed:
    """A build that nobody disturbed: the bytes and the work that every disturbed one is held against."""

    job: Job
    files: dict[str, str]
    work: Work

    @classmethod
    def build(
        cls, job: Job, out: Path | str, log: Path, prepare: Callable[..., Any] | None = None
    ) -> Undisturbed:
        """Build once.

        Raises:
            RuntimeError: If even that does not go well.
        """
        status = wait(job.start(out, log, prepare))
        if status:
            msg = f"an undisturbed build ended with {status}: {log.with_suffix('.error').read_text()}"
            raise RuntimeError(msg)
        return cls(job, _files(out), Work.of(log))

    def finish(
        self, row: Row, out: Path | str, log: Path, saw: str = "", shards_repeated: int = SHARDS_REPEATED
    ) -> None:
        """After a stop: no half store opens; the same call makes the same bytes, and nothing durable anew."""
        try:
            open_store(out)
            if _files(out) != self.files:
                row.bad(f"{out}: a half store was opened")
                return
        except StoreError as error:
            saw = saw or f"`{error}`"
        before, done = Work.of(log), self._durable(out)
        again = log.with_suffix(".again")
        status = wait(self.job.start(out, again))
        if status:
            said = again.with_suffix(".error").read_text()[-300:]
            row.bad(f"{out}: resumed, it ended with {status}: {said}")
            return
        after = Work.of(again)
        made = {*after.named("block"), *after.named("shard")}
        every = {*self.work.named("block"), *self.work.named("shard")}
        blocks = [name for name in after.named("block") if name in before.named("block")]
        shards = [name for name in after.named("shard") if name in before.named("shard")]
        wrong = {
            "other bytes": sorted(set(_files(out).items()) ^ set(self.files.items()))[:2],
            "durable and made again": sorted(done & made),
            "never made": sorted(every - done - made),
            "blocks repeated": blocks if len(blocks) > BLOCKS_REPEATED else [],
            "shards repeated": shards if len(shards) > shards_repeated else [],
            "left behind": _left_behind(out),
        }
        if any(wrong.values()):
            row.bad(f"{out}: { ({what: names for what, names in wrong.items() if names}) }")
            return
        row.notes["blocks run again"] += len(blocks)
        row.notes["shards written again"] += len(shards)
        row.good(saw)
        _remove(out)

    def _durable(self, out: Path | str) -> set[str]:
        """Blocks and shards that are there to stay."""
        journal = Journal(out)
        if journal.taken():
            return {*self.work.named("block"), *self.work.named("shard")}
        return journal.blocks.names() | journal.shards().keys()


def _files(out: Path | str) -> dict[str, str]:
    if "://" not in str(out):
        return contents(Path(out))
    from tests.support.s3 import objects

    return objects(str(out))


def _left_behind(out: Path | str) -> list[str]:
    if "://" in str(out):
        journal = Journal(out)
        return ["the journal"] if journal.folder.exists() else []
    path = Path(out)
    found = path.parent.glob(f"{path.name}*")
    return [p.name for p in found if p != path and not p.name.endswith(".log.jsonl")]


def _remove(out: Path | str) -> None:
    if "://" not in str(out):
        shutil.rmtree(out)
