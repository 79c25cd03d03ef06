"""SIGKILL: at random instants of a real build, and at every write of a made-up one."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.faults.builds import Job, contents, wait
from benchmarks.faults.report import Row
from wif_store.errors import StoreError
from wif_store.store import open_store

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

WRITES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}


def random_instants(job: Job, folder: Path, count: int, rng: random.Random) -> Row:
    """Kill ``count`` builds at instants spread over a build's duration, and finish each by the same call."""
    row = Row("SIGKILL of a real build at random instants")
    log = folder / "whole.log"
    whole = _undisturbed(job, folder / "whole.zarr", log)
    work, started = _work(log), time.monotonic()
    # The second has warm caches, as those that follow have.
    if _undisturbed(job, folder / "again.zarr", folder / "again.log") != whole:
        row.bad("two undisturbed builds differ")
    duration = time.monotonic() - started
    number = 0
    while row.injected < count:
        number += 1
        out, log = folder / f"{number}.zarr", folder / f"{number}.log"
        child = job.start(out, log)
        time.sleep(duration * (row.injected + rng.random()) / count)
        os.kill(child, signal.SIGKILL)
        if wait(child) != -signal.SIGKILL:
            shutil.rmtree(out)
            continue  # it was faster than the undisturbed one
        row.notes["in the scan" if _work(log)[1] == 0 else "while writing"] += 1
        _finish(row, job, out, log, whole, work)
    return row


def write_boundaries(job: Job, folder: Path, step: int) -> Row:
    """Stop a build before every ``step``-th change it makes on disk, the last file whole or torn."""
    row = Row("stop at a write boundary")
    log, counted = folder / "whole.log", folder / "count"
    whole = _undisturbed(job, folder / "whole.zarr", log, lambda: _stop_at(-1, folder, counted))
    work, changes = _work(log), counted.read_text().splitlines()
    row.notes["boundaries"] = len(changes)
    for tear in (False, True):
        for at in range(0, len(changes), step):
            if tear and not (at and changes[at - 1] == "opened"):
                continue  # no file is being written there
            row.notes["with a torn file"] += tear
            out, log = folder / f"{at}-{tear:d}.zarr", folder / f"{at}-{tear:d}.log"
            wait(job.start(out, log, lambda at=at, tear=tear: _stop_at(at, folder, None, tear=tear)))
            _finish(row, job, out, log, whole, work)
    return row


def _undisturbed(
    job: Job, out: Path, log: Path, prepare: Callable[[], object] = lambda: None
) -> dict[str, str]:
    if wait(job.start(out, log, prepare)):
        raise RuntimeError(log.with_suffix(".error").read_text())
    return contents(out)


def _finish(row: Row, job: Job, out: Path, log: Path, whole: dict[str, str], work: tuple[int, int]) -> None:
    """After a kill: no half store opens; the same call ends in the same bytes, repeating what was in hand."""
    seen = ""
    try:
        half = None
        open_store(out)
        half = contents(out)
    except StoreError as error:
        seen = f"`{error}`"
    if half not in (None, whole):
        row.bad(f"{out.name}: a half store was opened")
        return
    status = wait(job.start(out, log))
    if status:
        row.bad(f"{out.name}: {log.with_suffix('.error').read_text()[-300:]}")
        return
    blocks, shards = (now - once for now, once in zip(_work(log), work, strict=True))
    row.notes["repeated a block"] += blocks == 1
    row.notes["repeated the block in the model and the one being journalled"] += blocks == 2
    row.notes["repeated a shard"] += shards == 1
    litter = [
        p.name for p in out.parent.glob(f"{out.name}*") if p != out and not p.name.endswith(".log.jsonl")
    ]
    if contents(out) != whole or blocks > 2 or shards > 1 or litter:
        differing = sorted(set(contents(out).items()) ^ set(whole.items()))[:2]
        row.bad(f"{out.name}: {differing}, {blocks} blocks and {shards} shards repeated, left {litter}")
        return
    row.good(seen)
    shutil.rmtree(out)


def _work(log: Path) -> tuple[int, int]:
    """Blocks extracted and shards written so far."""
    lines = log.read_text().split() if log.exists() else []
    return lines.count("block"), lines.count("shard")


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
            os._exit(9)
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
