"""Inject faults, count what came of them, and print the table of ``docs/reliability.md``.

    python -m tests.faults [ROW...] [--seeds N] [--first-seed S] [--jobs N] [--short] [--json FILE]

Without names every row is run. Each row runs in a process of its own, ``--jobs`` of them at once; one that
takes long says every ten seconds how far it is. ``--seeds 3`` runs each row three times, with other random
numbers. ``model`` needs the embedded model (``wif-store[embedded]``), ``ray`` and ``s3`` need ``ray``, and
``moto[server]``. The exit status is 1 if anything was lost.
"""

from __future__ import annotations

import os

# A forked child would wait for ever for the threads of OpenMP that its parent had: nobody starts any.
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import faulthandler
import json
import multiprocessing
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.tables import head, line
from tests.faults import boundaries, builds, company, disk, fuzz, hub, kills, limits, objects, rot
from tests.faults.campaign import Campaign
from tests.faults.report import COLUMNS, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROWS: dict[str, tuple[Callable[[Campaign], Iterator[Row]], float]] = {
    "kills": (kills.kills, 30),
    "model": (kills.model, 160),
    "shards": (kills.shards, 15),
    "shrink": (kills.shrink, 15),
    "writes": (boundaries.writes, 50),
    "disk": (disk.disk, 70),
    "full": (disk.full, 5),
    "rights": (disk.rights, 2),
    "flips": (rot.flips, 20),
    "files": (rot.files, 15),
    "contents": (fuzz.contents, 110),
    "manifests": (fuzz.manifests, 90),
    "sources": (fuzz.sources, 35),
    "predictions": (fuzz.predictions, 10),
    "limits": (limits.limits, 45),
    "company": (company.company, 20),
    "s3": (objects.s3, 160),
    "hub": (hub.hub, 290),
    "ray": (objects.ray, 200),
}
"""Every row: what injects its faults, and about how many seconds that takes on one core."""


@dataclass
class Running:
    """A row that is being run in a process."""

    name: str
    process: multiprocessing.Process
    began: float


def run_row(name: str, seed: int, short: bool, folder: Path, found: Connection) -> None:
    """Run one row and send what it found; the first thing that a process of the campaign does."""
    builds.end_with_parent()
    faulthandler.enable()
    warnings.filterwarnings("ignore", message="Consolidated metadata")
    builds.use_small_shards()
    try:
        for row in ROWS[name][0](Campaign(folder, random.Random(f"{seed}:{name}"), short)):
            found.send(row)
    except BaseException:
        row = Row(name)
        row.bad(traceback.format_exc())
        found.send(row)


def run_all(chosen: Sequence[tuple[str, int]], jobs: int, short: bool, folder: Path) -> Iterator[Row]:
    """Run rows, ``jobs`` at once; yields what they found as it is found."""
    fork = multiprocessing.get_context("fork")
    left, running = list(chosen), dict[Connection, Running]()
    while left or running:
        while left and len(running) < jobs:
            name, seed = left.pop(0)
            here = folder / f"{name}-{seed}"
            here.mkdir()
            receiver, sender = fork.Pipe(duplex=False)
            process = fork.Process(target=run_row, args=(name, seed, short, here, sender))
            print(f"{name}: begins, about {ROWS[name][1]:.0f} s", file=sys.stderr, flush=True)
            process.start()
            sender.close()
            running[receiver] = Running(name, process, time.monotonic())
        for receiver in wait(list(running)):
            assert isinstance(receiver, Connection)
            try:
                yield receiver.recv()
            except EOFError:
                ended = running.pop(receiver)
                ended.process.join()
                seconds = time.monotonic() - ended.began
                print(f"{ended.name}: ended after {seconds:.0f} s", file=sys.stderr, flush=True)
                if ended.process.exitcode:
                    row = Row(ended.name)
                    row.bad(f"the process of the row ended with {ended.process.exitcode}")
                    yield row


def main() -> None:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of: {', '.join(ROWS)}")
    parser.add_argument("--seeds", type=int, default=1, help="how many times each row is run")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="rows at once")
    parser.add_argument("--short", action="store_true", help="a little of every row")
    parser.add_argument("--json", type=Path, help="also write the table there")
    args = parser.parse_args()
    if unknown := sorted(set(args.rows) - ROWS.keys()):
        parser.error(f"no row {unknown[0]!r}; expected some of: {', '.join(ROWS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the campaign was told to end"))
    names = sorted(args.rows or ROWS, key=lambda name: -ROWS[name][1])
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    chosen = [(name, seed) for seed in seeds for name in names]
    takes = sum(ROWS[name][1] for name in names) * args.seeds / args.jobs
    length = "a short form" if args.short else f"about {takes / 60:.0f} minutes"
    print(f"{len(names)} rows, {args.seeds} seeds, {args.jobs} at once: {length}", file=sys.stderr)
    started, found = time.monotonic(), list[Row]()
    print(head(COLUMNS))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # for the builds that give up root
        for row in run_all(chosen, args.jobs, args.short, Path(folder).resolve()):
            print(line(row.cells()), flush=True)
            found.append(row)
            for failure in row.failures[:5]:
                print(f"  lost: {failure}", file=sys.stderr, flush=True)
    trials, lost = sum(row.trials for row in found), sum(row.lost for row in found)
    seconds = time.monotonic() - started
    print(f"\n{trials:,} trials, {lost} lost; seeds {seeds.start} to {seeds.stop - 1}; {seconds:.0f} s.")
    if args.json:
        names = ("fault", "trials", "lost", "notes", "failures", "seen")
        kept = [{name: getattr(row, name) for name in names} for row in found]
        record = {"seeds": list(seeds), "seconds": round(seconds), "short": args.short, "rows": kept}
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(lost > 0)


if __name__ == "__main__":
    main()
