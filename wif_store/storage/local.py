"""A folder of this machine's file system."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from contextlib import contextmanager, suppress
from functools import cache
from typing import IO, TYPE_CHECKING, Any, Final

import zarr

from wif_store.storage.base import PARTIAL, refuse_link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from wif_store.storage.base import Entry, Part

AHEAD: Final = 4 * 2**20
"""Bytes that are gathered and written to a file at once, and on which the disk is then set to work."""


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
            with partial.open("wb", AHEAD) as file:
                begun = end = 0
                for part in parts:
                    end += file.write(part)
                    if end - begun >= AHEAD:
                        file.flush()
                        _begin_sync(file, begun, end)
                        begun = end
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        sync(path.parent)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """A file, or the range of it that is there."""
        if stop is None:
            with (self.folder / name).open("rb") as whole:
                whole.seek(start)
                return whole.read()
        # Ten ranges make a layer: a Path and a file object for each would be a fifth of the time.
        file = os.open(f"{self.folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(file, stop - start, start)
        finally:
            os.close(file)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        found = (self.folder / name).stat()
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.folder / name))
        return found.st_size

    def sizes(self) -> dict[str, int]:
        """Every file below, with its bytes; links are refused."""
        found: dict[str, int] = {}
        folders = [""] if self.folder.is_dir() else []
        while folders:
            inside = folders.pop()
            with os.scandir(self.folder / inside) as entries:
                for entry in entries:
                    name = f"{inside}{entry.name}"
                    kind = entry.stat(follow_symlinks=False)
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
        """Give a folder another name, durably."""
        (self.folder / old).rename(self.folder / new)
        sync(self.folder)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes out by a lock that ends with this one."""
        _make_folder(self.folder)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    def zarr_store(self) -> Any:
        """What zarr reads from."""
        return zarr.storage.LocalStore(self.folder, read_only=True)


def describe(path: Path) -> Entry:
    """What the manifest says of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, and durable once this returns."""
    LocalStorage(path.parent).write(path.name, [content])


def sync(path: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _begin_sync(file: IO[bytes], begin: int, end: int) -> None:
    """Set the disk to work on these bytes, and wait for nothing.

    A large file is then durable in two thirds of the time: the system begins by itself only when it must.
    """
    sync_file_range = _sync_file_range()
    if sync_file_range:
        sync_file_range(file.fileno(), begin, end - begin, 2)  # SYNC_FILE_RANGE_WRITE


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Linux's, which Python does not pass on."""
    function: Any = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function  # type: ignore[no-any-return]


def _make_folder(folder: Path) -> None:
    """Make a folder and those around it, durably."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)
