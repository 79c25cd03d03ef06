"""A folder behind any URL that fsspec understands."""

from __future__ import annotations

import errno
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import zarr

from wif_store.errors import StoreError, one_line
from wif_store.storage.hub_client import dataset_of, explained, patiently
from wif_store.storage.base import refuse_link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from wif_store.storage.base import Part

T = TypeVar("T")


class RemoteStorage:
    """A folder behind a URL. An object is there once it is closed; nobody can be kept out."""

    renames = False
    gap = 2**20
    span = 32 * 2**20
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
    def parent(self) -> RemoteStorage:
        """The place around it."""
        return RemoteStorage(self.url[: -len(self.name)])

    def at(self, name: str) -> RemoteStorage:
        """The place below it."""
        return RemoteStorage(self.url + ("" if self.url.endswith("://") else "/") + name)

    def write(self, name: str, parts: Iterable[Part]) -> None:
        """Send one object, part by part; it appears when it is whole."""
        with self._errors(name):
            file = self.fs.open(self._path(name), "wb", block_size=self.part_bytes)
        try:
            for part in parts:
                # Some clients take the length of a part for its bytes.
                content = memoryview(part).cast("B")
                with self._errors(name):
                    file.write(content)
        except BaseException:
            self._abandon(file, name)
            raise
        with self._errors(name):
            file.close()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """An object, or the range of it that is there, in one request."""
        content: bytes = self._ask(
            name, lambda: self.fs.cat_file(self._path(name), start=start or None, end=stop)
        )
        return content

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return int(self._ask(name, lambda: self.fs.info(self._path(name)))["size"] or 0)

    def sizes(self) -> dict[str, int]:
        """Every object below, with its bytes; links are refused."""
        found = self._ask("", lambda: self.fs.find(self.root, detail=True))
        sizes = {}
        for path, info in found.items():
            name = path.removeprefix(self.root).lstrip("/")
            if info.get("islink"):
                refuse_link(self.url, name)
            sizes[name] = info["size"]
        return sizes

    def exists(self, name: str = "") -> bool:
        """Whether there is such an object, or any below that name."""
        # Another machine may have written it since this one looked.
        self.fs.invalidate_cache()
        return bool(self._ask(name, lambda: self.fs.exists(self._path(name))))

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

    def _ask(self, name: str, request: Callable[[], T]) -> T:
        """Ask for something; the Hub again where it may answer a little later."""
        if not self.url.startswith("hf://"):
            with self._errors(name):
                return request()
        try:
            return patiently(request)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise StoreError(explained(error, dataset_of(self.url))) from error

    @contextmanager
    def _errors(self, name: str = "") -> Iterator[None]:
        """Give what a client raises, which is of many kinds, as one that says where and what."""
        try:
            yield
        except Exception as error:
            path = f"{self.url}/{name}" if name else self.url
            code = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EIO
            raise OSError(getattr(error, "errno", None) or code, one_line(error), path) from error
