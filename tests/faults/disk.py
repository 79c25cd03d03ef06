"""Disks that fail: at one call or for good, full, read-only, not ours. Each build is finished once mended."""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import subprocess
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.boundaries import watch
from tests.faults.builds import Job, made_up_job, wait
from tests.faults.report import Row
from tests.faults.resume import Undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.campaign import Campaign

NOBODY = 65534
FAULTS = (
    ("open", errno.ENOSPC),
    ("open", errno.EIO),
    ("fsync", errno.EIO),
    ("fsync", errno.ENOSPC),
    ("os.rename", errno.EIO),
    ("os.mkdir", errno.ENOSPC),
    ("read", errno.EIO),
    ("write", errno.ENOSPC),
    ("write", errno.EIO),
    ("write", errno.EDQUOT),
    ("short", 0),
)
"""Which call fails, and how; a short write takes a part of what it is given, and says so."""


def disk(campaign: Campaign) -> Iterator[Row]:
    """Calls that fail, at a random one of their kind: once, or from there on."""
    folder = campaign.at("disk")
    job, counts = made_up_job(folder, 32), folder / "count"
    undisturbed = Undisturbed.build(
        job, folder / "first.zarr", folder / "first.log", lambda note: _fail(folder, "", 0, 0, 0, counts)
    )
    met = counts.read_text().split()
    each = campaign.count(1, 12)
    for kind in ("ENOSPC", "EIO", "EDQUOT", "short writes"):
        faults = [(c, e) for c, e in FAULTS if (errno.errorcode[e] if e else "short writes") == kind]
        row = Row(f"{kind} in mid-build", each * len(faults))
        for number in range(row.wanted):
            call, code = faults[number % len(faults)]
            at, times = campaign.rng.randrange(met.count(call)), (1, 10**9)[number // len(faults) % 2]
            out = folder / f"{kind.split()[0]}{number}.zarr"
            _refused_then_finished(
                row,
                undisturbed,
                out,
                lambda note, call=call, code=code, at=at, times=times: _fail(
                    folder, call, code, at, times, None
                ),
                refused=call != "short",
                what=f"{call} {at} of {met.count(call)}",
            )
            row.notes[call.removeprefix("os.")] += 1
        yield row


def full(campaign: Campaign) -> Iterator[Row]:
    """A disk that is full when a part of the build is on it; a file-size limit where none can be mounted."""
    folder = campaign.at("full")
    job = made_up_job(folder)
    undisturbed = Undisturbed.build(job, folder / "first.zarr", folder / "first.log")
    sizes = [p.stat().st_size for p in (folder / "first.zarr").rglob("*") if p.is_file()]
    row = Row("disk full in mid-build", campaign.count(2, 12))
    for number in range(row.wanted):
        share = (number + 0.5) / row.wanted
        with tmpfs(folder / f"disk{number}", f"{max(64, int(300 * share))}k") as mounted:
            row.notes["tmpfs" if mounted else "file-size limit"] += 1
            limit = None if mounted else partial(_limit_files, int(max(sizes) * share))
            mend = partial(_remount, folder / f"disk{number}", "size=1g") if mounted else None
            _refused_then_finished(row, undisturbed, folder / f"disk{number}" / "s.zarr", limit, mend=mend)
    yield row


def rights(campaign: Campaign) -> Iterator[Row]:
    """A folder that may not be written from the start, from the third block on, or when it is taken up."""
    row = Row("read-only, or permission lost in mid-build", 4)
    folder = campaign.at("rights")
    job = made_up_job(folder)
    # Whoever gives up root may not be able to import what a build imports late.
    job.run(folder / "imports.zarr")
    undisturbed = Undisturbed.build(job, folder / "first.zarr", folder / "first.log")
    closed, lost = folder / "closed", folder / "lost"
    for path in (closed, lost):
        path.mkdir()
    opened = partial(closed.chmod, 0o755)
    _refused_then_finished(
        row, undisturbed, closed / "s.zarr", lambda note: _lose_rights(closed), mend=opened
    )
    closing = _at_block(job, 2, partial(_set_modes, lost, 0o555))
    _refused_then_finished(
        row,
        undisturbed,
        lost / "s.zarr",
        lambda note: _become_nobody(lost),
        mend=partial(_set_modes, lost, 0o755),
        first=closing,
    )
    for begun in (False, True):
        path = folder / f"disk-{begun:d}"
        with tmpfs(path, "1g") as mounted:
            if mounted:
                if begun:
                    wait(_at_block(job, 2, partial(os._exit, 7)).start(path / "s.zarr", folder / "b.log"))
                _remount(path, "ro")
                _refused_then_finished(
                    row, undisturbed, path / "s.zarr", None, mend=partial(_remount, path, "rw")
                )
    yield row


def _refused_then_finished(
    row: Row,
    undisturbed: Undisturbed,
    out: Path,
    hinder: Callable[..., Any] | None,
    *,
    mend: Callable[[], object] | None = None,
    first: Job | None = None,
    refused: bool = True,
    what: str = "",
) -> None:
    """One build that must end in one line, or be none the worse; and the same build once all is well."""
    log = out.parent.with_name(f"{out.parent.name}-{out.name}.log")
    status = wait((first or undisturbed.job).start(out, log, hinder))
    error = log.with_suffix(".error")
    said = error.read_text() if error.exists() else ""
    if mend:
        mend()
    if status == 0 and (not refused or what):  # The failure came too late, or did not matter.
        row.notes["without effect"] += 1
    elif status != 1 or "\n" in said or not said.startswith(("cannot write", "cannot read")):
        row.bad(f"{out} {what}: status {status}, {said[-400:]!r}")
        return
    # Shards that wait for the one that failed are begun, and fail likewise.
    undisturbed.finish(row, out, log, f"`{said}`" if said else "", shards_repeated=10**6)


def _fail(folder: Path, call: str, code: int, at: int, times: int, counts: Path | None) -> None:
    """Have one kind of call below ``folder`` fail from its ``at``-th on, ``times`` times."""
    met = 0

    def meet(what: str, path: str) -> bool:
        nonlocal met
        if counts is not None:
            with counts.open("a") as file:
                file.write(f"{what}\n")
        if what != call:
            return False
        met += 1
        return at < met <= at + times

    def change(what: str, path: str) -> None:
        if meet(what, path) and code:
            raise OSError(code, os.strerror(code), path)

    class Raw(io.FileIO):
        """A file whose writes may fail, or take only a part."""

        def write(self, content: Any) -> int:
            path = str(self.name)
            change("write", path)
            if meet("short", path):
                content = memoryview(content)[: max(1, len(content) // 2)]
            return super().write(content)

    opened = Path.open

    def opening(self: Path, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
        if mode == "wb" and str(self).startswith(str(folder)):
            return io.BufferedWriter(Raw(self, "w"), buffering if buffering > 0 else 8192)
        return opened(self, mode, buffering, *rest, **more)

    Path.open = opening  # type: ignore[method-assign,assignment]
    watch(folder, change)


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


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


def _at_block(job: Job, number: int, what: Callable[[], object]) -> Job:
    """The same build, in which something happens before the model begins a block."""
    blocks = iter(range(10**9))
    return job.before_each_block(lambda requests: what() if next(blocks) == number else None)


def _limit_files(size: int, note: object = None) -> None:
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
