"""The same build on Ray: how much faster, at what cost, and through kills of workers and of the driver.

    python -m benchmarks.ray_build [--model gemma3-270m] [--examples 192] [--turns 3] [--kills 10]

Every build is of the same examples of WinoGrande in blocks of 16, one core to a process, and must end in the
bytes of the single-process build; the exit status is 1 if one does not. Times are of the scan, forward
passes and journal, in builds that take turns; loading the model and starting Ray are shown apart. A killed
worker is one SIGKILL at a random instant of a build on two workers. A killed driver is one SIGKILL at a
random instant after its journal is begun; then the same call is run again.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.clock import interleave, median, ratio
from benchmarks.faults.builds import contents
from benchmarks.faults.report import HEAD, Row
from benchmarks.tables import Table, write_json
from benchmarks.workload import add_options, write_rows
from tests.support.s3 import objects, s3_server, worker_processes
from wif_store.builder.pipeline import Report, Settings, build
from wif_store.builder.workers_ray import RayWorkers, ray_workers
from wif_store.errors import WifError
from wif_store.extract.engine import Opener
from wif_store.tasks.rows import load_source
from wif_store.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TASK = get_task("winogrande")
PROTOCOL = TASK.protocol("aligned")
SETTINGS = Settings(TASK, PROTOCOL, per_class=None)
BLOCK = 16
TRIES = 4
"""Builds for each kill that is wanted: at some of its instants a build has ended."""


@dataclass(frozen=True)
class Work:
    """What is built, and with which model."""

    rows: str
    model: str
    dtype: str
    sequence_layers: str

    def opener(self) -> Opener:
        return Opener(
            self.model, dtype=self.dtype, sequence_layers=self.sequence_layers, device="cpu", block=BLOCK
        )

    def alone(self, out: str, opener: Opener) -> Report:
        """Build in this process."""
        return build(SETTINGS, load_source(TASK, self.rows), opener(PROTOCOL), out)

    def on(self, workers: Sequence[object], out: str) -> Report:
        """Build with these workers."""
        crew = RayWorkers(workers, PROTOCOL)
        return build(SETTINGS, load_source(TASK, self.rows), crew.engine, out, crew=crew)

    def drive(self, out: str) -> subprocess.Popen[str]:
        """Build with two workers of a driver's own, in a process of its own."""
        arguments = [self.rows, self.model, self.dtype, self.sequence_layers]
        command = [sys.executable, "-m", "benchmarks.ray_build", "--driver", out, *arguments]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def times(work: Work, folder: Path, whole: dict[str, str], turns: int) -> list[Table]:
    """Scan seconds alone, on one worker and on two."""
    opener, starting = work.opener(), {}
    wrong: set[str] = set()

    def timed(name: str, run: Callable[[str], Report]) -> float:
        out = folder / "timed.zarr"
        report = run(str(out))
        if contents(out) != whole:
            wrong.add(name)
        shutil.rmtree(out)
        return report.scan_seconds

    def ray(name: str, count: int) -> float:
        started = time.perf_counter()
        with ray_workers(work.opener(), workers=count) as workers:
            up = time.perf_counter()
            RayWorkers(workers, PROTOCOL)
            starting[count] = (up - started, time.perf_counter() - up)
            return timed(name, partial(work.on, workers))

    opener(PROTOCOL)
    works = {
        "single process": lambda: timed("single process", lambda out: work.alone(out, opener)),
        "Ray, one worker": lambda: ray("Ray, one worker", 1),
        "Ray, two workers": lambda: ray("Ray, two workers", 2),
    }
    clock, _ = interleave(works, turns)
    table = Table("Scan", "engine", "seconds", "times as fast", "times one worker", "same bytes")
    for name in works:
        to = (ratio(clock, "single process", name), ratio(clock, "Ray, one worker", name))
        table.add(name, median(clock, name), *to, "no" if name in wrong else "yes")
    start = Table("Start, last turn", "workers", "Ray and actors, s", "models loaded, s")
    for count, (up, loaded) in sorted(starting.items()):
        start.add(count, up, loaded)
    return [table, start]


def killed_workers(work: Work, folder: Path, whole: dict[str, str], count: int, rng: random.Random) -> Row:
    """One kill a build, somewhere in it; a build that ended before it is not counted."""
    row = Row("SIGKILL to a Ray worker")
    with ray_workers(work.opener(), workers=2) as workers:
        RayWorkers(workers, PROTOCOL)  # loads the models
        lasts = 0.0
        for number in range(-1, TRIES * count):
            if row.injected == count:
                break
            out, killed = folder / f"worker{number}.zarr", threading.Event()
            killer = threading.Timer(rng.uniform(0, lasts), _kill_one, (rng, killed))
            if number >= 0:  # the first is undisturbed, to know how long one takes
                killer.start()
            started = time.monotonic()
            try:
                work.on(workers, str(out))
                said = "" if contents(out) == whole else "other bytes"
            except WifError as error:
                said = str(error)
            if number < 0:
                lasts = time.monotonic() - started
                continue
            killer.cancel()
            killer.join()
            if not killed.is_set():
                row.notes["too late, tried again"] += 1
                continue
            row.bad(f"{out.name}: {said}") if said else row.good()
    return row


def _kill_one(rng: random.Random, killed: threading.Event) -> None:
    found = worker_processes()
    if found:
        rng.choice(found).kill()
        killed.set()


def killed_drivers(work: Work, folder: Path, whole: dict[str, str], count: int, rng: random.Random) -> Row:
    """One kill a build, then the same call again; a build that ended before it is not counted."""
    row, lasts = Row("SIGKILL to the driver of a Ray build"), 0.0
    for number in range(-1, TRIES * count):
        if row.injected == count:
            break
        out = folder / f"driver{number}.zarr"
        journal = folder / f"{out.name}.partial"
        driver = work.drive(str(out))
        while not (journal / "plan.json").exists() and driver.poll() is None:
            time.sleep(0.01)
        begun = time.monotonic()
        if number < 0:  # undisturbed, to know how long one takes
            driver.communicate()
            lasts = time.monotonic() - begun
            continue
        time.sleep(rng.uniform(0, lasts))
        unfinished = not out.exists()
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        if not unfinished:
            row.notes["too late, tried again"] += 1
            continue
        row.notes["blocks taken up"] += len(list((journal / "blocks").glob("*.npz")))
        error = (again := work.drive(str(out))).communicate()[1]
        same = not again.returncode and contents(out) == whole
        row.good() if same else row.bad(f"{out.name}: {error[-300:] or 'other bytes'}")
    return row


def to_s3(work: Work, whole: dict[str, str]) -> Row:
    """A build on two workers straight to an S3 server on the loopback interface."""
    row = Row("build straight to S3")
    with s3_server() as url, ray_workers(work.opener(), workers=2) as workers:
        work.on(workers, f"{url}/s.zarr")
        row.good() if objects(f"{url}/s.zarr") == whole else row.bad("other bytes")
    return row


def run(options: argparse.Namespace, folder: Path) -> bool:
    """Run everything; whether nothing was lost."""
    import torch

    torch.set_num_threads(1)  # as a worker has one core
    rows = folder / "rows.jsonl"
    write_rows(rows, TASK.name, options.data, options.examples)
    work = Work(str(rows), options.model, options.dtype, options.sequence_layers)
    work.alone(str(folder / "whole.zarr"), work.opener())
    whole = contents(folder / "whole.zarr")
    tables, rng = [], random.Random(options.seed)
    if options.turns:
        tables = times(work, folder, whole, options.turns)
    print(f"\n{HEAD}")
    lost = 0
    parts = (
        partial(killed_workers, work, folder, whole, options.kills, rng),
        partial(killed_drivers, work, folder, whole, options.kills, rng),
        partial(to_s3, work, whole),
    )
    for part in parts:
        print(row := part(), flush=True)
        for failure in row.failures:
            print(f"  lost: {failure}", file=sys.stderr)
        lost += row.lost
    write_json(options.json, tables, examples=options.examples, kills=options.kills, lost=lost)
    return not lost and all(r["same bytes"] == "yes" for table in tables[:1] for r in table.rows)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark, or be one of its drivers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser)
    parser.add_argument("--examples", type=int, default=192)
    parser.add_argument("--turns", type=int, default=3, help="0 takes no times")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--driver", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.driver:
        out, *work = options.driver
        with ray_workers((driven := Work(*work)).opener(), workers=2) as workers:
            driven.on(workers, out)
        return
    # On a machine with more, every process is still to have one core.
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(not run(options, Path(folder).resolve()))


if __name__ == "__main__":
    main()
