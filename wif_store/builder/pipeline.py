"""The build: scan a task with a model, keep pairs of a success and a failure, write the store meanwhile."""

from __future__ import annotations

import errno
import gc
import json
import os
import platform
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wif_store.builder.journal import Journal
from wif_store.builder.plan import Settings as Settings
from wif_store.builder.plan import check_finished, plan_of
from wif_store.builder.scan import Scan
from wif_store.builder.selection import check_pairs
from wif_store.builder.workers import LocalWorkers
from wif_store.builder.writer import SplitWriter, finish_store
from wif_store.errors import BuildError
from wif_store.format.schema import FINAL_TOKEN, SEQUENCE, SITES, SPLITS
from wif_store.store.audit import Audited, audit_examples, audit_published

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future

    from wif_store.builder.scan import SplitScan
    from wif_store.builder.shards import Shard, ShardJob
    from wif_store.builder.workers import Workers
    from wif_store.records import Engine
    from wif_store.storage import Entry
    from wif_store.tasks.base import Candidate
    from wif_store.tasks.rows import Source


class Progress:
    """Told how a build goes. This one says nothing; the command line draws bars."""

    def scanned(self, parts: Mapping[str, SplitScan], tokens: int) -> None:
        """Outcomes were counted, as the tallies of the splits say; this call's workers ran ``tokens``."""

    def writing(self, done: int, total: int) -> None:
        """The scan is over; ``done`` of ``total`` uncompressed bytes are in shards that are durable."""

    def phase(self, name: str) -> None:
        """What is done now, where it is neither scanning nor writing."""


@dataclass(slots=True)
class Report:
    """What a build did: also the line it adds to the run log."""

    out: str
    selection: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    already_built: bool = False
    resumed_blocks: int = 0
    blocks: int = 0
    tokens: int = 0
    scan_seconds: float = 0.0
    write_seconds: float = 0.0
    durable_share: float = 0.0
    """Of all residual bytes, those that were in durable shards when the scan ended."""


def build_store(
    settings: Settings,
    source: Source,
    engine: Engine,
    out: str | os.PathLike[str],
    progress: Progress | None = None,
    workers: Workers | None = None,
    command: str = "",
) -> Report:
    """Build a store at ``out``, or finish the one that the same call began.

    No store stands at ``out`` until it is complete: the build works in ``OUT.partial``.

    Args:
        settings: What is to be built.
        source: The task's rows.
        engine: The model.
        out: A folder, or a URL of an object store that fsspec understands.
        progress: Told how it goes.
        workers: Who does the work; this process, with the engine's model, unless told otherwise.
        command: What was typed to begin the build, for whoever asks how to go on with it.

    Raises:
        WifError: Bad input; what was scanned before stays where it is for the same call to resume.
    """
    address = os.fspath(out)
    if address.startswith("hf://"):
        msg = f"{address} is on the Hub, where every file would be a commit: build in a folder, then push it"
        raise BuildError(msg)
    with _disk_errors(address):
        plan = plan_of(settings, engine, source)
        journal = Journal(address)
        if journal.taken():
            check_finished(journal.out, plan)
            journal.discard_left(plan)
            return Report(address, already_built=True)
        try:
            journal.open(plan, command)
            with _old_objects_kept(), workers or LocalWorkers(engine.extract) as working:
                return _Build(settings, source, engine, journal, progress or Progress(), plan).run(working)
        finally:
            journal.close()


@dataclass
class _Build:
    """One build under way."""

    settings: Settings
    source: Source
    engine: Engine
    journal: Journal
    progress: Progress
    plan: Mapping[str, Any]
    shards: dict[str, Entry] = field(default_factory=dict)
    """What the manifest will say of the shards that are durable."""
    writing: dict[Future[Shard], ShardJob] = field(default_factory=dict)
    """The shards that are being written."""

    def __post_init__(self) -> None:
        self.too_long = 0
        self.writers = {split: SplitWriter(split, self.engine) for split in SPLITS}
        self.closed: set[str] = set()
        self.there = self.journal.shards()
        self.durable = 0

    def run(self, workers: Workers) -> Report:
        """Scan, write and finish."""
        started = time.monotonic()
        self.scan = Scan(self.settings, self._readable(workers), self.journal)
        for _ in self.scan.run(workers):
            self.progress.scanned(self.scan.parts, self.scan.tokens)
            self._take_rows(workers)
        check_pairs({split: part.tally for split, part in self.scan.parts.items()})
        scanned = time.monotonic()
        total = sum(writer.size for writer in self.writers.values())
        durable_share = self.durable / total
        self.progress.writing(self.durable, total)
        for written in list(self.writing):
            written.result()
            self._collect()
            self.progress.writing(self.durable, total)
        self.progress.phase("auditing")
        sections = self._sections()
        finish_store(self.journal.store, sections, self.writers, self.shards)
        report = Report(
            str(self.journal.out),
            sections["selection"],
            sections["audit"],
            resumed_blocks=self.scan.resumed,
            blocks=self.scan.blocks,
            tokens=self.scan.tokens,
            scan_seconds=scanned - started,
            write_seconds=time.monotonic() - scanned,
            durable_share=durable_share,
        )
        self.journal.finish(_run_line(report, self.engine))
        return report

    def _readable(self, workers: Workers) -> list[Candidate]:
        """The candidates that the model is asked about."""
        candidates = list(self.source.candidates)
        if not self.settings.skip_too_long:
            return candidates
        self.progress.phase("counting tokens")
        requests = [self.settings.task.request(c, self.settings.protocol) for c in candidates]
        kept = [c for c, long in zip(candidates, workers.too_long(requests), strict=True) if not long]
        self.too_long = len(candidates) - len(kept)
        return kept

    def _take_rows(self, workers: Workers) -> None:
        """Take up the rows that became final, and have the shards written that they complete."""
        for split, part in self.scan.parts.items():
            writer = self.writers[split]
            writer.add(self.scan.rows(split, part.tally.rows(len(writer.rows) // 2)))
            last = part.ended and split not in self.closed
            if last:
                self.closed.add(split)
            for job in writer.shards(last=last):
                if job.path in self.there:
                    self.shards[job.path] = self.there[job.path]
                    self.durable += job.size
                else:
                    self.writing[workers.write(job, self.journal)] = job
        self._collect()

    def _collect(self) -> None:
        """Take note of the shards that are durable, and remove what the journal has for nobody."""
        finished = [future for future in self.writing if future.done()]
        for future in finished:
            job, shard = self.writing.pop(future), future.result()
            self.shards[shard.path] = shard.entry
            self.durable += job.size
        if finished:
            self._shrink_journal()

    def _shrink_journal(self) -> None:
        """Remove the residuals of blocks that durable shards have, or that no row is made of."""
        there = self.journal.blocks.with_residuals()
        for split, part in self.scan.parts.items():
            writer = self.writers[split]
            being_written = (job for job in self.writing.values() if job.path.startswith(f"{split}/"))
            first = min([writer.first_unwritten, *map(writer.first_row, being_written)])
            needed = self.scan.waiting(split) | {row.block.name for row in writer.rows[first:]}
            counted = {part.name(number) for number in range(part.counted)}
            for name in sorted((counted & there) - needed):
                self.journal.blocks.remove_residuals(name)

    def _sections(self) -> dict[str, Any]:
        """The sections of the manifest other than ``files``."""
        splits = {}
        for split, writer in self.writers.items():
            groups = {row.values["group"] for row in writer.rows}
            splits[split] = {
                "examples": len(writer.rows),
                "tokens": writer.tokens,
                "groups": len(groups),
                **self.scan.counts(split),
            }
        selection = {
            **self.plan["selection"],
            "k": sum(len(writer.rows) for writer in self.writers.values()) // 2,
            "rows": self.source.record["rows"],
            "duplicates": self.source.duplicates,
            "contradictory": list(self.source.contradictory),
            "too_long": self.too_long,
            **self.scan.outcomes(),
        }
        copied = ("task", "outcome", "protocol", "model", "source", "batching", "versions")
        return {
            **{name: self.plan[name] for name in copied},
            "selection": selection,
            "splits": splits,
            "layers": {
                FINAL_TOKEN: list(self.engine.layers),
                SEQUENCE: list(self.engine.sequence_layers),
            },
            "sites": {site: SITES[site] for site in self.engine.sites},
            "audit": self._audit(),
        }

    def _audit(self) -> dict[str, Any]:
        examples = (
            Audited(row["id"], split, bool(row["success"]), row["group"], row["prompt"], row["cut_tokens"])
            for split, writer in self.writers.items()
            for row in writer.table()
        )
        return {
            **audit_examples(examples, gold_in_prompt=self.plan["protocol"]["shows_gold"]),
            "published_source": audit_published(self.source.candidates),
        }


def _run_line(report: Report, engine: Engine) -> bytes:
    """What differs from run to run: it stands beside the store, never in it."""
    entry = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": platform.node(),
        "blocks": report.blocks,
        "resumed_blocks": report.resumed_blocks,
        "tokens": report.tokens,
        "scan_seconds": round(report.scan_seconds, 3),
        "write_seconds": round(report.write_seconds, 3),
        "durable_share": round(report.durable_share, 3),
        "device": engine.model.get("device"),
    }
    return json.dumps(entry).encode() + b"\n"


@contextmanager
def _old_objects_kept() -> Iterator[None]:
    """Spare what there is already, some 400,000 objects of torch and transformers, the collector's visits.

    Each would hold up every thread for 0.3 s.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _disk_errors(out: str) -> Iterator[None]:
    """Turn what the file system refuses into one line that says how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "free some space and run the same command: it goes on where it stopped"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "make it writable, or choose another --out, and run the same command"
        elif error.errno is None:
            raise
        else:
            advice = "mend that, or choose another --out, and run the same command"
        msg = f"cannot write {error.filename or out}: {error.strerror}; {advice}"
        raise BuildError(msg) from error
