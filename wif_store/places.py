"""Where stores and builds stand: a folder, or a folder behind any URL that fsspec understands."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import zarr

from wif_store.errors import DamageError, StoreError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

PARTIAL: Final = ".partial"
"""Ends the name of what is not whole yet."""

Part = bytes | memoryview
Entry = dict[str, Any]
"""What the manifest says of a file: its ``size`` in bytes and its ``sha256``."""


class Place(Protocol):
    """A folder somewhere. Names of files are relative to it, with slashes.

    Attributes:
        name: Its last part.
        renames: Whether a folder in it can be given another name at once.
        gap: Bytes between two ranges of a file that are quicker read than skipped.
    """

    name: str
    renames: bool
    gap: int

    @property
    def parent(self) -> Place:
        """The place around it."""
        ...

    def at(self, name: str) -> Place:
        """The place below it."""
        ...

    def write(self, name: str, parts: Iterable[Part]) -> Entry:
        """Write a file that is there whole or not at all, and durable once this returns."""
        ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """A file, or the range of it that is there."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a file."""
        ...

    def sizes(self) -> dict[str, int]:
        """Every file below, with its bytes; links are refused."""
        ...

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file or folder."""
        ...

    def remove(self, name: str = "") -> None:
        """Remove a file, or a folder with everything in it."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a folder another name, durably; only where ``renames``."""
        ...

    def hold(self) -> AbstractContextManager[None]:
        """Keep other processes out, where that can be done.

        Raises:
            BlockingIOError: If another one holds it.
        """
        ...

    def zarr_store(self) -> Any:
        """What zarr reads from."""
        ...


def place_of(address: str | os.PathLike[str]) -> Place:
    """The place of a path or a URL.

    Raises:
        StoreError: If nothing that is installed can speak to it.
    """
    text = os.fspath(address)
    return RemotePlace(text) if "://" in text else LocalPlace(Path(text))


class LocalPlace:
    """A folder of this machine's file system."""

    renames = True
    gap = 64 * 2**10

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    def __str__(self) -> str:
        """Its path."""
        return str(self.folder)

    @property
    def parent(self) -> LocalPlace:
        """The folder around it."""
        return LocalPlace(self.folder.parent)

    def at(self, name: str) -> LocalPlace:
        """The folder below it."""
        return LocalPlace(self.folder / name)

    def write(self, name: str, parts: Iterable[Part]) -> Entry:
        """Write beside the file's name, sync, rename, and sync the folder."""
        path = self.folder / name
        _make_folder(path.parent)
        # A name of its own: no two writers ever share a file, however late one of them is.
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
        count = _Count()
        try:
            with partial.open("wb") as file:
                for part in parts:
                    file.write(count.add(part))
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        sync(path.parent)
        return count.entry()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """A file, or the range of it that is there."""
        with (self.folder / name).open("rb", buffering=0) as file:
            file.seek(start)
            return file.read() if stop is None else file.read(stop - start)

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
                        _refuse_link(str(self), name)
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


class RemotePlace:
    """A folder behind a URL. An object is there once it is closed; nobody can be kept out."""

    renames = False
    gap = 2**20
    part_bytes = 16 * 2**20
    """An object is sent in parts of this many bytes, and no more of it is held."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url if url.endswith("://") else url.rstrip("/")
        self.name = self.url.rpartition("/")[2]
        # The Hub's file system fetches 5 MiB more than each read asks for, unless told otherwise.
        self.options = {"block_size": 1} if self.url.startswith("hf://") else {}
        try:
            self.fs, self.root = fsspec.url_to_fs(self.url, **self.options)
        except (ImportError, ValueError) as error:
            found = one_line(error)
            msg = f"{self.url} cannot be reached ({found}): install what it needs, or give a folder"
            raise StoreError(msg) from None

    def __str__(self) -> str:
        """Its URL."""
        return self.url

    @property
    def parent(self) -> RemotePlace:
        """The place around it."""
        return RemotePlace(self.url[: -len(self.name)])

    def at(self, name: str) -> RemotePlace:
        """The place below it."""
        return RemotePlace(self.url + ("" if self.url.endswith("://") else "/") + name)

    def write(self, name: str, parts: Iterable[Part]) -> Entry:
        """Send one object, part by part; it appears when it is whole."""
        count = _Count()
        with self._errors(name):
            file = self.fs.open(self._path(name), "wb", block_size=self.part_bytes)
        try:
            for part in parts:
                content = count.add(part)
                with self._errors(name):
                    file.write(content)
        except BaseException:
            self._abandon(file, name)
            raise
        with self._errors(name):
            file.close()
        return count.entry()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """An object, or the range of it that is there, in one request."""
        with self._errors(name):
            content: bytes = self.fs.cat_file(self._path(name), start=start or None, end=stop)
        return content

    def size(self, name: str) -> int:
        """Bytes of an object."""
        with self._errors(name):
            return int(self.fs.info(self._path(name))["size"] or 0)

    def sizes(self) -> dict[str, int]:
        """Every object below, with its bytes; links are refused."""
        with self._errors():
            found = self.fs.find(self.root, detail=True)
        sizes = {}
        for path, info in found.items():
            name = path.removeprefix(self.root).lstrip("/")
            if info.get("islink"):
                _refuse_link(self.url, name)
            sizes[name] = info["size"]
        return sizes

    def exists(self, name: str = "") -> bool:
        """Whether there is such an object, or any below that name."""
        with self._errors(name):
            # Another machine may have written it since this one looked.
            self.fs.invalidate_cache()
            return bool(self.fs.exists(self._path(name)))

    def remove(self, name: str = "") -> None:
        """Remove an object, or everything below that name."""
        with self._errors(name):
            self.fs.rm(self._path(name), recursive=True)

    def rename(self, old: str, new: str) -> None:
        """Objects cannot be renamed at once."""
        raise NotImplementedError

    def hold(self) -> AbstractContextManager[None]:
        """Nobody can be kept out of a URL."""
        return nullcontext()

    def zarr_store(self) -> Any:
        """What zarr reads from."""
        return zarr.storage.FsspecStore.from_url(self.url, storage_options=self.options, read_only=True)

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def _abandon(self, file: Any, name: str) -> None:
        """Let go of an object that is not whole; closing it would make it appear."""
        from fsspec.spec import AbstractBufferedFile

        with suppress(Exception):
            if isinstance(file, AbstractBufferedFile):
                file.closed = True
                file.discard()
            else:
                file.close()
                self.fs.rm(self._path(name))

    @contextmanager
    def _errors(self, name: str = "") -> Iterator[None]:
        """Give what a client raises, which is of many kinds, as one that says where and what."""
        try:
            yield
        except Exception as error:
            # Those of the Hub's client are told where the Hub is spoken to.
            told = self.url.startswith("hf://") or isinstance(error, FileNotFoundError)
            if told or (isinstance(error, OSError) and error.errno):
                raise
            path = f"{self.url}/{name}" if name else self.url
            raise OSError(errno.EIO, one_line(error), path) from error


class _Count:
    """Size and SHA-256 of what goes by."""

    def __init__(self) -> None:
        self._digest, self._size = hashlib.sha256(), 0

    def add(self, part: Part) -> memoryview:
        content = memoryview(part).cast("B")
        self._digest.update(content)
        self._size += content.nbytes
        return content

    def entry(self) -> Entry:
        return {"size": self._size, "sha256": self._digest.hexdigest()}


def describe(path: Path) -> Entry:
    """What the manifest says of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def write_file(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, and durable once this returns."""
    LocalPlace(path.parent).write(path.name, [content])


def sync(path: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
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


def _refuse_link(store: str, name: str) -> None:
    msg = f"{store}: {name} is a link or no ordinary file; expected only files: copy what it stands for"
    raise DamageError(msg)
