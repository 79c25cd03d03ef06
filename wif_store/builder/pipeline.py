"""The build: scan a task with a model, keep balanced successes and failures, write the store."""

from __future__ import annotations

import errno
import gc
import json
import os
import platform
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wif_store.store.audit import Audited, audit_examples, audit_published, shows_gold
from wif_store.builder.workers import LocalWorkers
from wif_store.errors import BuildError
from wif_store.builder.journal import Journal
from wif_store.builder.plan import Settings as Settings
from wif_store.builder.plan import check_finished, plan_of
from wif_store.builder.scan import Progress as Progress
from wif_store.builder.scan import Scan
from wif_store.format.schema import SPLITS
from wif_store.builder.selection import visit_order
from wif_store.builder.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from wif_store.builder.workers import Workers
    from wif_store.storage import Entry
    from wif_store.records import Engine
    from wif_store.builder.shards import ShardJob
    from wif_store.tasks.rows import Source
    from wif_store.builder.writer import Kept


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


def build(
    settings: Settings,
    source: Source,
    engine: Engine,
    out: str | os.PathLike[str],
    progress: Progress | None = None,
    crew: Workers | None = None,
) -> Report:
    """Build a store at ``out``, or finish the one that the same call began.

    No store stands at ``out`` until it is whole: the build works in ``OUT.partial``.

    Args:
        settings: What is to be built.
        source: The task's rows.
        engine: The model.
        out: A folder, or a URL of an object store that fsspec understands.
        progress: Told how it goes.
        crew: Who does the work; this process, with the engine's model, unless told otherwise.

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
            journal.open(plan)
            with ExitStack() as stack:
                stack.enter_context(_old_objects_kept())
                crew = crew or stack.enter_context(LocalWorkers(engine.extract))
                return _run(settings, engine, source, journal, progress or Progress(), crew, plan)
        finally:
            journal.close()


def _run(
    settings: Settings,
    engine: Engine,
    source: Source,
    journal: Journal,
    progress: Progress,
    crew: Workers,
    plan: Mapping[str, Any],
) -> Report:
    started = time.monotonic()
    candidates = visit_order(source.candidates, settings.seed)
    scan = Scan(settings, candidates, engine.batching["block"], journal, progress)
    scan.run(crew)
    scanned_at = time.monotonic()
    positions, k = scan.tally.settle()
    kept = scan.kept(positions)
    selection = {
        **plan["selection"],
        "k": k,
        "rows": source.record["rows"],
        "duplicates": source.duplicates,
        "contradictory": list(source.contradictory),
        **scan.outcomes(scan.tally.scanned(positions)),
    }
    header = {
        **{name: plan[name] for name in ("task", "protocol", "model", "source", "batching", "versions")},
        "selection": selection,
        "audit": _audit(settings, kept, source),
    }
    # Rows are ordered by split; within one, by visit.
    ordered = sorted(kept, key=lambda e: SPLITS.index(e.split))
    writer = StoreWriter(ordered, engine.layers, engine.sequence_layers, engine.d_model)
    shards = _write_shards(writer, journal, crew, progress)
    writer.finish(journal.store, header, shards)
    report = Report(
        str(journal.out),
        selection,
        header["audit"],
        resumed_blocks=scan.resumed,
        blocks=scan.blocks,
        tokens=scan.tokens,
        scan_seconds=scanned_at - started,
        write_seconds=time.monotonic() - scanned_at,
    )
    journal.finish(_run_line(report, engine))
    return report


def _write_shards(writer: StoreWriter, journal: Journal, crew: Workers, progress: Progress) -> dict[str, Entry]:
    """Have the shards written that no earlier call has; what the manifest says of each."""
    there, written = journal.shards(), 0
    entries: dict[str, Entry] = {}

    def done(name: str, size: int, entry: Entry) -> None:
        nonlocal written
        entries[name] = entry
        written += size
        progress.writing(written, writer.size)

    def wanted() -> Iterator[ShardJob]:
        for job in writer.shards():
            if job.name in there:
                done(job.name, job.size, there[job.name])
            else:
                yield job

    with closing(crew.write(wanted(), journal)) as shards:
        for shard in shards:
            done(shard.name, shard.size, shard.entry)
    return entries


def _audit(settings: Settings, kept: Sequence[Kept], source: Source) -> dict[str, Any]:
    examples = (
        Audited(e.values["example_id"], e.split, bool(e.values["success"]), e.values["cut_tokens"])
        for e in kept
    )
    return {
        **audit_examples(examples, gold_in_prompt=shows_gold(settings.task, settings.protocol)),
        "published_source": audit_published(source.candidates),
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
