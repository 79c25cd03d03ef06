"""The build: scan a task with a model, keep balanced successes and failures, write the store."""

from __future__ import annotations

import errno
import json
import platform
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wif_store import __version__
from wif_store.audit import Audited, audit_examples, audit_published, shows_gold
from wif_store.errors import BuildError, SourceError, StoreError
from wif_store.journal import Journal, sync
from wif_store.schema import FORMAT_VERSION, SPLITS
from wif_store.selection import Tally, assign_splits, visit_order
from wif_store.store import open_store
from wif_store.tasks.base import PUBLISHED_SPLIT
from wif_store.writer import Kept, StoreWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from wif_store.records import Engine
    from wif_store.sources import Source
    from wif_store.tasks.base import Candidate, MultipleChoiceTask, Protocol


@dataclass(frozen=True, slots=True)
class Settings:
    """What the caller decides about a store, beyond the model."""

    task: MultipleChoiceTask
    protocol: Protocol
    per_class: int | None = 2000
    """k, or None for the largest balanced k."""
    seed: int = 0
    splits: str = "seeded"
    """``seeded``, or ``published`` to keep the split that the source carries."""


@dataclass(slots=True)
class Report:
    """What a build did: also the line it adds to the run log."""

    out: Path
    selection: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    already_built: bool = False
    resumed_blocks: int = 0
    blocks: int = 0
    tokens: int = 0
    scan_seconds: float = 0.0
    write_seconds: float = 0.0


class Progress:
    """Told how a build goes. This one says nothing; the command line draws bars."""

    def scanned(self, done: int, total: int, tokens: int, tally: Tally) -> None:
        """``done`` of ``total`` candidates are scored; ``tokens`` were run in this process."""

    def writing(self, done: int, total: int) -> None:
        """``done`` of ``total`` uncompressed bytes are in shards on disk."""


def build(
    settings: Settings, source: Source, engine: Engine, out: Path, progress: Progress | None = None
) -> Report:
    """Build a store at ``out``, or finish the one that the same call began.

    Nothing stands at ``out`` until the store is whole: the build works in ``OUT.partial`` and renames.

    Raises:
        WifError: Bad input; what was scanned before stays on disk for the same call to resume.
    """
    progress = progress or Progress()
    with _disk_errors(out):
        plan = _plan(settings, engine, source)
        journal = Journal(out)
        if out.exists():
            _check_finished(out, plan)
            journal.discard_left(plan)
            return Report(out, already_built=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            journal.open(plan)
            report = _run(settings, engine, source, journal, out, progress, plan)
        finally:
            journal.close()
    return report


def _run(
    settings: Settings,
    engine: Engine,
    source: Source,
    journal: Journal,
    out: Path,
    progress: Progress,
    plan: dict[str, Any],
) -> Report:
    report = Report(out)
    started = time.monotonic()
    candidates = visit_order(source.candidates, settings.seed)
    tally = _scan(settings, engine, candidates, journal, progress, report)
    report.scan_seconds = time.monotonic() - started
    positions, k = tally.settle()
    kept = _keep(settings, engine, candidates, positions, journal)
    scanned = tally.scanned(positions)
    selection = {
        **plan["selection"],
        "k": k,
        "rows": source.record["rows"],
        "duplicates": source.duplicates,
        "contradictory": list(source.contradictory),
        **_outcomes(engine, candidates[:scanned], journal),
    }
    header = {
        **{name: plan[name] for name in ("task", "protocol", "model", "source", "batching", "versions")},
        "selection": selection,
        "audit": _audit(settings, kept, source),
    }
    started = time.monotonic()
    # Rows are ordered by split; within one, by visit.
    ordered = sorted(kept, key=lambda e: SPLITS.index(e.split))
    writer = StoreWriter(journal.staged, engine.layers, engine.sequence_layers, engine.d_model)
    total, written = writer.bytes_to_write(ordered), 0

    def on_shard(size: int) -> None:
        nonlocal written
        written += size
        progress.writing(written, total)

    writer.write(ordered, header, on_shard)
    journal.staged.rename(out)
    sync(out.parent)
    journal.discard()
    report.write_seconds = time.monotonic() - started
    report.selection, report.audit = selection, header["audit"]
    _log_run(report, engine)
    return report


def _scan(
    settings: Settings,
    engine: Engine,
    candidates: Sequence[Candidate],
    journal: Journal,
    progress: Progress,
    report: Report,
) -> Tally:
    """Score blocks of candidates in visit order until both classes are full or the source ends."""
    size = engine.batching["block"]
    tally = Tally(settings.per_class, len(candidates))
    progress.scanned(0, len(candidates), 0, tally)
    for number, start in enumerate(range(0, len(candidates), size)):
        if tally.full:
            break
        block = candidates[start : start + size]
        report.blocks += 1
        if journal.has(number):
            report.resumed_blocks += 1
            for candidate, prediction in zip(block, journal.read(number).prediction, strict=True):
                tally.visit(bool(prediction == candidate.gold))
        else:
            records = engine.extract([settings.task.request(c, settings.protocol) for c in block])
            wanted = [tally.visit(r.prediction == c.gold) for r, c in zip(records, block, strict=True)]
            journal.write(number, records, wanted)
            report.tokens += sum(r.cost for r in records)
        progress.scanned(start + len(block), len(candidates), report.tokens, tally)
    return tally


def _keep(
    settings: Settings,
    engine: Engine,
    candidates: Sequence[Candidate],
    positions: Sequence[int],
    journal: Journal,
) -> list[Kept]:
    """The examples of the store, in visit order."""
    size = engine.batching["block"]
    blocks = {number: journal.read(number, check=True) for number in sorted({p // size for p in positions})}
    outcomes = [bool(blocks[p // size].prediction[p % size] == candidates[p].gold) for p in positions]
    if settings.splits == "published":
        splits = [_published_split(candidates[p]) for p in positions]
    else:
        splits = assign_splits(outcomes)
    kept = []
    for position, success, split in zip(positions, outcomes, splits, strict=True):
        candidate, block, row = candidates[position], blocks[position // size], position % size
        choices = settings.protocol.answers or candidate.choices
        values = {
            "example_id": candidate.id,
            "source_row": candidate.source_row,
            "choices": list(choices),
            "n_choices": len(choices),
            "gold": candidate.gold,
            "prediction": int(block.prediction[row]),
            "success": int(success),
            "choice_logprob": block.logprobs[row, : len(choices)].tolist(),
            "choice_tokens": block.choice_tokens[row, : len(choices)].tolist(),
            "cut_tokens": int(block.cut[row]),
        }
        kept.append(Kept(block, int(block.place[row]), split, values))
    return kept


def _published_split(candidate: Candidate) -> str:
    if candidate.published_split not in SPLITS:
        msg = (
            f"row {candidate.source_row + 1} carries the split {candidate.published_split!r}; "
            f"--splits published expects {PUBLISHED_SPLIT} to be one of: {', '.join(SPLITS)}"
        )
        raise SourceError(msg)
    return str(candidate.published_split)


def _outcomes(engine: Engine, candidates: Sequence[Candidate], journal: Journal) -> dict[str, Any]:
    """Counts over every candidate that was scanned, kept or not."""
    size = engine.batching["block"]
    blocks = [journal.read(n).prediction for n in range(-(-len(candidates) // size))]
    predictions = np.concatenate(blocks)[: len(candidates)]
    gold = np.array([c.gold for c in candidates])
    successes = int((predictions == gold).sum())
    return {
        "scanned": len(candidates),
        "successes": successes,
        "failures": len(candidates) - successes,
        "accuracy": successes / len(candidates),
        "answer_shares": (np.bincount(predictions) / len(candidates)).tolist(),
    }


def _audit(settings: Settings, kept: Sequence[Kept], source: Source) -> dict[str, Any]:
    examples = (
        Audited(e.values["example_id"], e.split, bool(e.values["success"]), e.values["cut_tokens"])
        for e in kept
    )
    return {
        **audit_examples(examples, gold_in_prompt=shows_gold(settings.task, settings.protocol)),
        "published_source": audit_published(source.candidates),
    }


def _plan(settings: Settings, engine: Engine, source: Source) -> dict[str, Any]:
    """Everything that determines the store's bytes."""
    return {
        "format_version": FORMAT_VERSION,
        "task": settings.task.name,
        "protocol": settings.protocol.record(),
        "model": engine.model,
        "source": source.record,
        "selection": {
            "seed": settings.seed,
            "per_class": settings.per_class or "max",
            "splits": settings.splits,
        },
        "batching": engine.batching,
        "versions": {"wif-store": __version__, **engine.versions},
    }


def _check_finished(out: Path, plan: dict[str, Any]) -> None:
    """Say what stands at ``out``, unless it is the store that this plan would build."""
    try:
        manifest = open_store(out).manifest
    except StoreError as error:
        msg = f"{out} exists and is not a whole store ({error}): choose another --out, or delete it"
        raise BuildError(msg) from None
    plan = json.loads(json.dumps(plan))
    found = {
        "task": manifest.task,
        "protocol": manifest.protocol,
        "model": manifest.model,
        "source": manifest.source,
        "selection": {name: manifest.selection.get(name) for name in plan["selection"]},
        "batching": manifest.batching,
    }
    differing = [name for name, value in found.items() if value != plan[name]]
    if differing:
        msg = (
            f"{out} holds a finished store with another {', '.join(differing)}: "
            "choose another --out, or delete it"
        )
        raise BuildError(msg)


def _log_run(report: Report, engine: Engine) -> None:
    """What differs from run to run stands beside the store, never in it."""
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
    with report.out.with_name(report.out.name + ".log.jsonl").open("a") as log:
        log.write(json.dumps(entry) + "\n")


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
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
