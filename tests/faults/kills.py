"""SIGKILL: at random instants, while shards are written during the scan, while the journal shrinks."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from typing import TYPE_CHECKING

from tests.faults.builds import Job, made_up_job, real_job, wait
from tests.faults.report import Row
from tests.faults.resume import Undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.campaign import Campaign

Note = "Callable[[str], None]"


def kills(campaign: Campaign) -> Iterator[Row]:
    """Made-up builds, killed at instants spread over their duration."""
    folder = campaign.at("kills")
    yield _random_instants(
        Row("SIGKILL at a random instant", campaign.count(5, 80)), made_up_job(folder), folder, campaign
    )


def model(campaign: Campaign) -> Iterator[Row]:
    """Builds with the embedded model over real rows, killed likewise."""
    folder = campaign.at("model")
    job = real_job(folder)
    row = Row("SIGKILL at a random instant, a real model", campaign.count(1, 10))
    yield _random_instants(row, job, folder, campaign)


def shards(campaign: Campaign) -> Iterator[Row]:
    """Builds killed some thousandths of a second after a shard was begun while the scan went on."""
    row = Row("SIGKILL while a shard is written during the scan", campaign.count(3, 30))
    yield _at_lines(row, "shard", 0.004, campaign)


def shrink(campaign: Campaign) -> Iterator[Row]:
    """Builds killed when residuals that the store has are removed from the journal, or just after."""
    row = Row("SIGKILL while the journal shrinks", campaign.count(3, 30))
    yield _at_lines(row, "gone", 0.001, campaign)


def _random_instants(row: Row, job: Job, folder: Path, campaign: Campaign) -> Row:
    undisturbed = Undisturbed.build(job, folder / "first.zarr", folder / "first.log")
    lasts = []
    for name in ("second", "third"):  # their caches are warm, as those of the builds that follow are
        started = time.monotonic()
        again = Undisturbed.build(job, folder / f"{name}.zarr", folder / f"{name}.log")
        lasts.append(time.monotonic() - started)
        if again.files != undisturbed.files:
            row.bad("two undisturbed builds differ")
    number = 0
    while row.trials < row.wanted:
        out, log = folder / f"{number}.zarr", folder / f"{number}.log"
        number += 1
        child = job.start(out, log)
        time.sleep(min(lasts) * (row.trials + campaign.rng.random()) / row.wanted)
        os.kill(child, signal.SIGKILL)
        _finish(row, undisturbed, out, log, wait(child))
    return row


def _at_lines(row: Row, kind: str, delay: float, campaign: Campaign) -> Row:
    """Kill builds at the lines of one kind that they note during the scan, one line a build."""
    folder = campaign.at(kind)
    job = made_up_job(folder).before_each_block(lambda requests: time.sleep(0.01))
    undisturbed = Undisturbed.build(job, folder / "first.zarr", folder / "first.log")
    most = sum(line.startswith(kind) for line in undisturbed.work.scan)
    number = 0
    while row.trials < row.wanted and number < 3 * row.wanted:
        out, log = folder / f"{number}.zarr", folder / f"{number}.log"
        after = campaign.rng.uniform(0, delay) if number % 2 else 0.0
        child = job.start(out, log, _killing(kind, number % most, after))
        number += 1
        _finish(row, undisturbed, out, log, wait(child))
    return row


def _killing(kind: str, number: int, after: float) -> Callable[[Note], Note]:
    """Has a child kill itself some seconds after it has noted so many lines of a kind."""

    def prepare(note: Note) -> Note:
        left = number

        def told(line: str) -> None:
            nonlocal left
            if not line.startswith(kind):
                return
            left -= 1
            if left == -1 and after:
                threading.Timer(after, os.kill, (os.getpid(), signal.SIGKILL)).start()
            elif left == -1:
                os.kill(os.getpid(), signal.SIGKILL)

        return told

    return prepare


def _finish(row: Row, undisturbed: Undisturbed, out: Path, log: Path, status: int) -> None:
    if status == 0:
        row.notes["came too late, tried again"] += 1
        shutil.rmtree(out)
    elif status != -signal.SIGKILL:
        row.bad(f"{out.name} ended by itself: {status} {log.with_suffix('.error').read_text()[-300:]}")
    else:
        undisturbed.finish(row, out, log)
