"""SIGKILL at random instants of a real build, which runs as `wif-store build` does: a stream and threads."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING

from benchmarks.faults.builds import Job, Work, ended, wait
from benchmarks.faults.report import Row
from benchmarks.faults.resume import Undisturbed

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
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

    numbers = itertools.count()

    def instant(child: int, log: Path) -> None:
        time.sleep(duration * (row.injected + rng.random()) / counts[0])

    while row.injected < counts[0]:
        _kill(row, whole, folder / f"{next(numbers)}", instant)
    yield row
    row = Row("SIGKILL of a real build while it writes shards")

    def shard(child: int, log: Path) -> None:
        number = rng.randrange(len(whole.work.shards))
        while len(Work.of(log).shards) <= number and not ended(child):
            time.sleep(0.0005)

    while row.injected < counts[1]:
        _kill(row, whole, folder / f"{next(numbers)}", shard)
    yield row


def _kill(row: Row, whole: Undisturbed, name: Path, until: Callable[[int, Path], None]) -> None:
    """Kill one build when ``until`` returns, and finish it."""
    out, log = name.with_suffix(".zarr"), name.with_suffix(".log")
    child = whole.job.start(out, log)
    until(child, log)
    os.kill(child, signal.SIGKILL)
    status = wait(child)
    if status == 0:
        row.notes["came too late, and again"] += 1
        shutil.rmtree(out)
    elif status != -signal.SIGKILL:
        row.bad(f"{out.name} ended by itself: {status} {log.with_suffix('.error').read_text()[-300:]}")
    else:
        row.notes["while writing" if Work.of(log).shards else "in the scan"] += 1
        whole.finish(row, out, log)
