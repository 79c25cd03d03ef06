"""A build ended before each change it makes on disk, the file it was writing complete or torn."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.builds import made_up_job, wait
from tests.faults.report import Row
from tests.faults.resume import Undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.campaign import Campaign

CHANGES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
STOPPED = 9
"""The status of a build that was stopped."""

Change = "Callable[[str, str], None]"
"""Told of each change before it is made: what is done (``open``, ``fsync``, ...), and to which path."""


def writes(campaign: Campaign) -> Iterator[Row]:
    """Stop a build before changes it makes on disk: before all of them, over enough seeds."""
    folder = campaign.at("writes")
    job, counted = made_up_job(folder, 32), folder / "count"
    undisturbed = Undisturbed.build(
        job, folder / "first.zarr", folder / "first.log", lambda note: watch(folder, _count(counted))
    )
    changes = counted.read_text().split()
    every = [(at, False) for at in range(len(changes))]
    # Where a file is being written, it is also cut in half.
    every += [(at, True) for at in range(1, len(changes)) if changes[at - 1] == "open"]
    step = max(1, len(every) // campaign.count(12, 160))
    chosen = every[campaign.rng.randrange(step) :: step]
    row = Row("stop before a change on disk", len(chosen))
    row.notes["changes"] = len(changes)
    for at, tear in chosen:
        row.notes["with a torn file"] += tear
        out, log = folder / f"{at}-{tear:d}.zarr", folder / f"{at}-{tear:d}.log"
        status = wait(job.start(out, log, lambda note, at=at, tear=tear: watch(folder, _stop(at, tear=tear))))
        if status == STOPPED:
            undisturbed.finish(row, out, log)
        elif status == 0:  # threads take turns as they like: now and then one change fewer is made
            row.notes["fewer changes than before"] += 1
        else:
            row.bad(f"{out.name} was to be stopped and ended with {status}")
    yield row


def watch(folder: Path, change: Callable[[str, str], object]) -> None:
    """Have ``change`` be told of each change below ``folder``, for the rest of this process."""
    fsync = os.fsync

    def tell(what: str, path: str) -> None:
        if path.startswith(str(folder)) and not path.endswith((".log", ".again", ".error", "count")):
            change(what, path)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in CHANGES or not isinstance(args[0], str | os.PathLike):
            return
        if event == "open":
            mode, flags = args[1], args[2]
            writing = (
                any(c in mode for c in "wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            tell("open" if writing else "read", os.fspath(args[0]))
        else:
            tell(event, os.fspath(args[0]))

    def telling_fsync(descriptor: int) -> None:
        tell("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    os.fsync = telling_fsync
    sys.addaudithook(hook)


def _count(counted: Path) -> Callable[[str, str], None]:
    def change(what: str, path: str) -> None:
        if what != "read":
            with counted.open("a") as file:
                file.write(f"{what}\n")

    return change


def _stop(at: int, *, tear: bool) -> Callable[[str, str], None]:
    """Ends this process before its ``at``-th change; ``tear`` cuts the file that was opened last."""
    left, writing = at, ""

    def change(what: str, path: str) -> None:
        nonlocal left, writing
        if what == "read":
            return
        if left == 0:
            left = -1
            if tear and writing and Path(writing).exists():
                os.truncate(writing, Path(writing).stat().st_size // 2)
            os._exit(STOPPED)
        left -= 1
        writing = path if what == "open" else ""

    return change
