"""SIGKILL at random instants of a real build, which runs as `wif-store build` does: a stream and threads."""

from __future__ import annotations

import os
import shutil
import signal
import time
from typing import TYPE_CHECKING

from benchmarks.faults.builds import Job, Work, wait
from benchmarks.faults.report import Row
from benchmarks.faults.resume import Undisturbed

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path


def random_instants(job: Job, folder: Path, counts: tuple[int, int], rng: random.Random) -> Iterator[Row]:
    """Kill builds at instants spread over their duration, and others while they write.

    Each is finished by the same call. The folder keeps the undisturbed ``whole.zarr``.
    """
    row = Row("SIGKILL of a real build at random instants")
    whole = Undisturbed.build(job, folder / "whole.zarr", folder / "whole.log")
    # The second has warm caches, as those that follow have.
    started = time.monotonic()
    again = Undisturbed.build(job, folder / "again.zarr", folder / "again.log")
    duration = time.monotonic() - started
    if again.files != whole.files:
        row.bad("two undisturbed builds differ")
    _kill(row, whole, folder, counts[0], (0.0, duration), rng)
    yield row
    row = Row("SIGKILL of a real build while it writes shards")
    _kill(row, whole, folder, counts[1], (again.work.writing, duration), rng)
    yield row


def _kill(
    row: Row,
    whole: Undisturbed,
    folder: Path,
    count: int,
    span: tuple[float, float],
    rng: random.Random,
) -> None:
    tries = 0
    while row.injected < count:
        tries += 1
        out, log = folder / f"{len(row.fault)}-{tries}.zarr", folder / f"{len(row.fault)}-{tries}.log"
        child = whole.job.start(out, log)
        begin, end = span
        time.sleep(begin + (end - begin) * (row.injected + rng.random()) / count)
        os.kill(child, signal.SIGKILL)
        status = wait(child)
        if status == 0:
            shutil.rmtree(out)  # it was faster than the undisturbed one
        elif status != -signal.SIGKILL:
            row.bad(f"{out.name} ended by itself: {status} {log.with_suffix('.error').read_text()[-300:]}")
        else:
            row.notes["while writing" if Work.of(log).shards else "in the scan"] += 1
            whole.finish(row, out, log)
