"""A folder of this machine's file system."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import filelock

from wif_store.storage.base import PARTIAL, refuse_link

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wif_store.storage.base import Entry, Part

BUFFER: Final = 4 * 2**20
"""Bytes that are gathered and written to a file at once."""
LOCK: Final = ".lock"
"""Ends the name of the file beside a folder that says who writes the folder."""


class LocalStorage:
    """A folder of this machine's file system."""

    renames = True
    gap = 64 * 2**10
    span = 2**18

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    def __str__(self) -> str:
        """Its path."""
        return str(self.folder)

    @property
    def parent(self) -> LocalStorage:
        """The folder around it."""
        return LocalStorage(self.folder.parent)

    def at(self, name: str) -> LocalStorage:
        """The folder below it."""
        return LocalStorage(self.folder / name)

    def write(self, name: str, parts: Iterable[Part]) -> None:
        """Write beside the file's name, sync, rename, and sync the folder."""
        path = self.folder / name
        _make_folder(path.parent)
        # A name of its own: no two writers ever share a file, however late one of them is.
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
        try:
            with partial.open("wb", BUFFER) as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        sync(path.parent)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``start:stop`` of a file, as far as the file goes."""
        # Without a Path: a layer is many small ranges, and making Paths would be a third of the time.
        with open(f"{self.folder}/{name}", "rb") as file:  # noqa: PTH123
            file.seek(start)
            return file.read() if stop is None else file.read(stop - start)

    def size(self, name: str) -> int:
        """The size of a file in bytes."""
        found = (self.folder / name).stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.folder / name))
        return found.st_size

    def sizes(self) -> dict[str, int]:
        """The size in bytes of every file below; links are refused."""
        found: dict[str, int] = {}
        folders = [""] if self.folder.is_dir() else []
        while folders:
            inside = folders.pop()
            with os.scandir(self.folder / inside) as entries:
                for entry in entries:
                    name = f"{inside}{entry.name}"
                    try:
                        kind = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # renamed or removed since it was listed, by another thread or process
                    if stat.S_ISDIR(kind.st_mode):
                        folders.append(f"{name}/")
                    elif stat.S_ISREG(kind.st_mode):
                        found[name] = kind.st_size
                    else:
                        refuse_link(str(self), name)
        return found

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file or folder."""
        return (self.folder / name).exists()

    def remove(self, name: str = "") -> None:
        """Remove a file, or a folder with everything in it."""
        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    def rename(self, old: str, new: str) -> None:
        """Give a file or folder another name, durably."""
        (self.folder / old).rename(self.folder / new)
        sync(self.folder)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes out by a lock, which ends with this process at the latest.

        The lock file stands beside the folder: where files are on another machine (NFS), a folder that
        holds an open file cannot be removed.

        Raises:
            BlockingIOError: If another process holds it.
        """
        _make_folder(self.folder.parent)
        lock = filelock.FileLock(f"{self.folder}{LOCK}", blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(self)) from None
        try:
            yield
        finally:
            # Removed while it is held: whoever opens it now finds that it has no name, and makes another.
            with suppress(OSError):
                Path(lock.lock_file).unlink()
            lock.release()

    def pinned(self) -> LocalStorage:
        """Itself: a folder has no revisions."""
        return self

    def zarr_store(self) -> Any:
        """What zarr reads from."""
        import zarr

        return zarr.storage.LocalStore(self.folder, read_only=True)


def describe(path: Path) -> Entry:
    """What the manifest says of a file: its size and its SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def write_file(path: Path, content: bytes) -> None:
    """Write a file. It appears complete or not at all, and is durable once this returns."""
    LocalStorage(path.parent).write(path.name, [content])


def sync(folder: Path) -> None:
    """Make the entries of a folder durable, where the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make a folder and those around it, durably."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)
