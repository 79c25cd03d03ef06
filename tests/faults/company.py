"""Several builds into one folder, and reads while a build writes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from tests.faults.builds import contents, made_up_job, numbers, wait
from tests.faults.report import Row
from wif_store.errors import BuildError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.builds import Job
    from tests.faults.campaign import Campaign

PAUSE = 0.03


def company(campaign: Campaign) -> Iterator[Row]:
    """Second and third builds on the folder of a first; readers of a folder that is being written."""
    folder = campaign.at("company")
    job = made_up_job(folder).before_each_block(lambda requests: time.sleep(PAUSE))
    yield _second_builds(job, folder, campaign)
    yield _at_once(job, folder, campaign)
    yield _reads(job, folder, campaign)


def _second_builds(job: Job, folder: Path, campaign: Campaign) -> Row:
    row = Row("a second build on the folder of a first", campaign.count(2, 15))
    first: dict[str, str] = {}
    for number in range(row.wanted):
        out = folder / f"two{number}.zarr"
        child = job.start(out, folder / f"two{number}.log")
        while not (folder / f"{out.name}.partial" / "plan.json").exists():
            time.sleep(0.001)
        time.sleep(campaign.rng.uniform(0, 0.6))
        said = ""
        try:
            row.notes["begun when the first was done"] += job.run(out).already_built
        except BuildError as error:
            row.notes["refused"] += 1
            said = f"`{error}`"
        status = wait(child)
        first = first or contents(out)
        row.bad(f"{out.name}: status {status}") if status or contents(out) != first else row.good(said)
    return row


def _at_once(job: Job, folder: Path, campaign: Campaign) -> Row:
    """Four builds that begin together: one builds, the others are refused or find it done."""
    row = Row("four builds at once into one folder", campaign.count(1, 10))
    first: dict[str, str] = {}
    for number in range(row.wanted):
        out = folder / f"four{number}.zarr"
        logs = [folder / f"four{number}-{i}.log" for i in range(4)]
        statuses = [wait(child) for child in [job.start(out, log) for log in logs]]
        errors = [log.with_suffix(".error").read_text() for log in logs]
        first = first or contents(out)
        ends = zip(statuses, errors, strict=True)
        fine = 0 in statuses and all(s == 0 or (s == 1 and "\n" not in e) for s, e in ends)
        row.notes["refused"] += statuses.count(1)
        if fine and contents(out) == first:
            row.good(f"`{next(filter(None, errors), '')}`")
        else:
            row.bad(f"{out.name}: {statuses} {errors}")
    return row


def _reads(job: Job, folder: Path, campaign: Campaign) -> Row:
    """A reader opens and reads the folder again and again while a build writes it."""
    row = Row("a read during a build", 0)
    finished = ""
    for number in range(campaign.count(1, 5)):
        out = folder / f"read{number}.zarr"
        child = job.start(out, folder / f"read{number}.log")
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            try:
                seen = numbers(out)
            except StoreError as error:
                row.notes["refused"] += 1
                row.good(f"`{error}`")
                time.sleep(0.001)
            else:
                finished = finished or seen
                row.notes["read"] += 1
                row.good() if seen == finished else row.bad("a reader saw another store")
        finished = finished or numbers(out)
        if numbers(out) != finished:
            row.bad(f"{out.name}: a reader saw another store")
    return row
