"""Disks that are full, read-only or not ours, in mid-build; each build is finished once that is mended."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.faults.builds import Job, contents, wait
from benchmarks.faults.report import Row
from wif_store.storage import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from wif_store.storage.base import Part

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


@contextmanager
def quota(folder: Path, size: str) -> Iterator[Callable[[], object] | None]:
    """A part of a file system at ``folder`` that may hold ``size``; yields what lifts the quota.

    Yields None where none can be had: it takes root, a kernel with btrfs, and btrfs-progs.
    """
    image, top = folder.with_suffix(".img"), folder.with_suffix(".top")
    top.mkdir()
    with image.open("wb") as file:
        file.truncate(128 * 2**20)
    mounted = _succeeds("mkfs.btrfs", "-q", image) and _succeeds("mount", "-o", "loop", image, top)
    try:
        commands = (
            ("btrfs", "quota", "enable", top),
            ("btrfs", "subvolume", "create", top / "limited"),
            ("btrfs", "qgroup", "limit", size, top / "limited"),
        )
        if mounted and all(_succeeds(*command) for command in commands):
            folder.symlink_to(top / "limited", target_is_directory=True)
            yield partial(_succeeds, "btrfs", "qgroup", "limit", "none", top / "limited")
        else:
            folder.mkdir()
            yield None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(top)], check=True)
        image.unlink()


def _succeeds(*command: object) -> bool:
    try:
        return subprocess.run([*map(str, command)], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


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


def over_quota(job: Job, folder: Path, points: int) -> Row:
    """A quota that is used up by a part of the build; where none can be had, the place's write says so."""
    row = Row("quota used up in mid-build")
    job.run(folder / "whole.zarr")
    whole = contents(folder / "whole.zarr")
    need = sum(p.stat().st_size for p in (folder / "whole.zarr").rglob("*") if p.is_file())
    for number in range(points):
        share = (number + 0.5) / points
        place = folder / f"quota{number}"
        # Btrfs counts its own nodes too.
        with quota(place, f"{96 + int(need * 1.8 * share) // 1024}k") as lift:
            row.notes["btrfs" if lift else "errno given by the place's write"] += 1
            hinder = nothing if lift else partial(_refuse_bytes, int(need * 1.8 * share))
            _refused_then_finished(row, job, place / "s.zarr", whole, hinder, lift or nothing)
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
    blocks = iter(range(10**9))
    return job.before_each_block(lambda requests: what() if next(blocks) == number else None)


def _limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _refuse_bytes(room: int) -> None:
    """Have this process's places refuse what exceeds a quota, as the kernel would."""
    write = LocalStorage.write

    def limited(self: LocalStorage, name: str, parts: Iterable[Part]) -> None:
        def counted() -> Iterator[Part]:
            nonlocal room
            for part in parts:
                room -= memoryview(part).nbytes
                if room < 0:
                    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(self.folder / name))
                yield part

        write(self, name, counted())

    LocalStorage.write = limited  # type: ignore[method-assign]


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
