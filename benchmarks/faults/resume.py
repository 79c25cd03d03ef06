"""What must hold of a build that was ended before its time, and of the same call that finishes it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.faults.builds import Job, Work, contents, wait
from wif_store.errors import StoreError
from wif_store.builder.journal import Journal
from wif_store.store.reader import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.faults.report import Row

BLOCKS_REPEATED = 2
"""The block that was in the model, and the one before it, which was being journalled."""
SHARDS_REPEATED = 1


@dataclass(frozen=True)
class Undisturbed:
    """A build that nobody disturbed: the bytes and the work that every disturbed one is held against."""

    job: Job
    files: dict[str, str]
    work: Work

    @classmethod
    def build(
        cls, job: Job, out: Path | str, log: Path, prepare: Callable[[], object] = lambda: None
    ) -> Undisturbed:
        """Build once.

        Raises:
            RuntimeError: If even that does not go well.
        """
        status = wait(job.start(out, log, prepare))
        if status:
            msg = f"an undisturbed build ended with {status}: {log.with_suffix('.error').read_text()}"
            raise RuntimeError(msg)
        return cls(job, contents(folder_of(out)), Work.of(log))

    def finish(self, row: Row, out: Path | str, log: Path, saw: str = "") -> None:
        """After a stop: no half store opens; the same call makes the same bytes, and nothing durable anew."""
        folder = folder_of(out)
        try:
            open_store(out)
            if contents(folder) != self.files:
                row.bad(f"{out}: a half store was opened")
                return
        except StoreError as error:
            saw = saw or f"`{error}`"
        before, done = Work.of(log), self._durable(out)
        again = log.with_suffix(".again")
        status = wait(self.job.start(out, again))
        if status:
            row.bad(
                f"{out}: resumed, it ended with {status}: {again.with_suffix('.error').read_text()[-300:]}"
            )
            return
        after, whole = Work.of(again), self.work
        blocks = [block for block in after.blocks if block in before.blocks]
        shards = [shard for shard in after.shards if shard in before.shards]
        wrong = {
            "other bytes": sorted(set(contents(folder).items()) ^ set(self.files.items()))[:2],
            "durable and made again": sorted(done & {*after.blocks, *after.shards}),
            "never made": sorted({*whole.blocks, *whole.shards} - done - {*after.blocks, *after.shards}),
            "blocks repeated": blocks if len(blocks) > BLOCKS_REPEATED else [],
            "shards repeated": shards if len(shards) > SHARDS_REPEATED else [],
            "left behind": [
                p.name
                for p in folder.parent.glob(f"{folder.name}*")
                if p != folder and not p.name.endswith(".log.jsonl")
            ],
        }
        if any(wrong.values()):
            row.bad(f"{out}: { ({what: names for what, names in wrong.items() if names}) }")
            return
        row.notes["repeated the block in the model"] += len(blocks) == 1
        row.notes["repeated that and the one being journalled"] += len(blocks) == BLOCKS_REPEATED
        row.notes["repeated a shard"] += len(shards) == 1
        row.good(saw)
        shutil.rmtree(folder)

    def _durable(self, out: Path | str) -> set[str]:
        """Blocks and shards that are there to stay."""
        journal = Journal(out)
        if journal.taken():
            return {*self.work.blocks, *self.work.shards}
        blocks = {self.work.blocks[number] for number in journal.blocks.numbers()}
        return blocks | journal.shards().keys()


def folder_of(out: Path | str) -> Path:
    """Where the files of a store are, if only behind a URL."""
    return Path(str(out).rpartition("://")[2])
