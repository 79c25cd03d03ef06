"""Disks that are full, read-only or not ours, in mid-build; each build is finished once that is mended."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.faults.builds import Job, contents, wait
from benchmarks.faults.report import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOBODY = 65534


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[bool]:
    """A file system of its own at ``folder``; False where this user may mount none."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change the options of a file system that is mounted."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


def full(job: Job, folder: Path, points: int) -> Row:
    """A disk that is full when a part of the build is on it; a file-size limit where none can be mounted."""
    row = Row("disk full in mid-build")
    wait(job.start(folder / "whole.zarr", folder / "whole.log"))
    whole = contents(folder / "whole.zarr")
    # The journal and the store are there together before the journal goes.
    need = sum(p.stat().st_size for p in (folder / "whole.zarr").rglob("*") if p.is_file())
    most = max(p.stat().st_size for p in (folder / "whole.zarr").rglob("*") if p.is_file())
    for number in range(points):
        disk, share = folder / f"disk{number}", (number + 0.5) / points
        with tmpfs(disk, f"{max(8, int(need * 1.8 * share) // 1024)}k") as mounted:
            row.notes["tmpfs" if mounted else "file-size limit"] += 1
            hinder = nothing if mounted else partial(_limit_files, int(most * share))
            mend = partial(remount, disk, "size=1g") if mounted else nothing
            _refused_then_finished(row, job, disk / "s.zarr", whole, hinder, mend)
    return row


def read_only(job: Job, folder: Path) -> Row:
    """A folder that may not be written from the start, from the third block on, or when it is taken up."""
    row = Row("read-only, or permission lost in mid-build")
    # Whoever gives up root may not be able to import what a build imports late.
    job.run(folder / "whole.zarr")
    whole = contents(folder / "whole.zarr")
    closed, lost = folder / "closed", folder / "lost"
    closed.mkdir()
    hinder, mend = partial(_lose_rights, closed), partial(closed.chmod, 0o755)
    _refused_then_finished(row, job, closed / "s.zarr", whole, hinder, mend)
    row.notes["no permission from the start"] += 1
    lost.mkdir()
    hinder, mend = partial(_become_nobody, lost), partial(_set_modes, lost, 0o755)
    closing = _at_block(job, 2, partial(_set_modes, lost, 0o555))
    _refused_then_finished(row, closing, lost / "s.zarr", whole, hinder, mend, again=job)
    row.notes["permission lost in mid-build"] += 1
    for begun in (False, True):
        disk = folder / f"disk-{begun:d}"
        with tmpfs(disk, "1g") as mounted:
            if mounted:
                if begun:
                    wait(_at_block(job, 2, partial(os._exit, 7)).start(disk / "s.zarr", folder / "begun.log"))
                remount(disk, "ro")
                mend = partial(remount, disk, "rw")
                _refused_then_finished(row, job, disk / "s.zarr", whole, nothing, mend)
                row.notes["read-only file system, " + ("resumed" if begun else "begun")] += 1
    return row


def nothing() -> None:
    """What hinders or mends nothing."""


def _refused_then_finished(
    row: Row,
    job: Job,
    out: Path,
    whole: dict[str, str],
    hinder: Callable[[], object],
    mend: Callable[[], object],
    *,
    again: Job | None = None,
) -> None:
    """One build that must end in one line, and the same build that must finish once all is well."""
    log = out.parent.with_name(out.parent.name + ".log")
    status = wait(job.start(out, log, hinder))
    error = log.with_suffix(".error")
    said = error.read_text() if error.exists() else ""
    half = (out / "manifest.json").exists()
    mend()
    finished = wait((again or job).start(out, log))
    named = said.startswith("cannot write") and str(out) in said
    if status != 1 or not named or "\n" in said or half or finished or contents(out) != whole:
        row.bad(f"{out}: status {status}, {said[-300:]!r}, then {finished}")
    else:
        row.good(f"`{said}`")


def _at_block(job: Job, number: int, what: Callable[[], object]) -> Job:
    """The same build, in which something happens before a block is extracted."""
    extract, blocks = job.engine.extract, iter(range(10**9))

    def happening(requests: Any) -> Any:
        if next(blocks) == number:
            what()
        return extract(requests)

    return replace(job, engine=replace(job.engine, extract=happening))


def _limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _lose_rights(folder: Path) -> None:
    """Become someone who may not write to ``folder``; root may write anywhere."""
    folder.chmod(0o555)
    if os.getuid() == 0:
        os.setuid(NOBODY)


def _become_nobody(folder: Path) -> None:
    """Become someone who owns ``folder`` and can lose the right to it."""
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        os.setuid(NOBODY)


def _set_modes(folder: Path, mode: int) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(mode)
