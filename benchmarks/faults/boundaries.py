"""A build ended before each change it makes on disk, the file it was writing whole or torn."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.faults.builds import Job, wait
from benchmarks.faults.report import Row
from benchmarks.faults.resume import Undisturbed

WRITES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
STOPPED = 9
"""The status of a build that was stopped."""


def write_boundaries(job: Job, folder: Path, step: int) -> Row:
    """Stop a build before every ``step``-th change it makes on disk."""
    row = Row("stop at a write boundary")
    counted = folder / "count"
    whole = Undisturbed.build(
        job, folder / "whole.zarr", folder / "whole.log", lambda: _stop_at(-1, folder, counted)
    )
    changes = counted.read_text().splitlines()
    row.notes["boundaries"] = len(changes)
    for tear in (False, True):
        for at in range(0, len(changes), step):
            if tear and not (at and changes[at - 1] == "opened"):
                continue  # no file is being written there
            row.notes["with a torn file"] += tear
            out, log = folder / f"{at}-{tear:d}.zarr", folder / f"{at}-{tear:d}.log"
            status = wait(job.start(out, log, lambda at=at, tear=tear: _stop_at(at, folder, None, tear=tear)))
            if status != STOPPED:
                row.bad(f"{out.name} was to be stopped and ended with {status}")
            else:
                whole.finish(row, out, log)
    return row


def _stop_at(at: int, folder: Path, counted: Path | None, *, tear: bool = False) -> None:
    """End this process before its ``at``-th change below ``folder``; ``tear`` cuts the file it writes."""
    events, writing, before = 0, "", 0
    fsync = os.fsync

    def change(path: str, *, opened: bool, appends: bool = False) -> None:
        nonlocal at, events, writing, before
        if not path.startswith(str(folder)) or path.endswith("count"):
            return
        if counted is not None:
            with counted.open("a") as file:
                file.write("opened\n" if opened else "other\n")
        if events == at:
            at = -1
            if tear and writing and Path(writing).exists():
                os.truncate(writing, (before + Path(writing).stat().st_size) // 2)
            os._exit(STOPPED)
        events += 1
        writing = path if opened else ""
        before = Path(path).stat().st_size if appends and Path(path).exists() else 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in WRITES or not isinstance(args[0], str | os.PathLike):
            return
        path = os.fspath(args[0])
        if event == "open":
            mode, flags = args[1], args[2]
            writes = (
                any(c in mode for c in "wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            if writes:
                change(path, opened=True, appends=bool(mode and "a" in mode))
        else:
            change(path, opened=False)

    def stopping_fsync(descriptor: int) -> None:
        change(str(Path(f"/proc/self/fd/{descriptor}").readlink()), opened=False)
        fsync(descriptor)

    os.fsync = stopping_fsync
    sys.addaudithook(hook)
