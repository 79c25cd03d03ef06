"""A folder behind any URL that fsspec understands."""

from __future__ import annotations

import errno
import re
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from wif_store.errors import StoreError, one_line
from wif_store.storage.base import refuse_link
from wif_store.storage.hub_client import dataset_of, explained, is_hubs, retrying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from wif_store.storage.base import Part

T = TypeVar("T")


class RemoteStorage:
    """A folder behind a URL. An object appears when it is closed; nobody can be kept out.

    Any number of threads may read through one instance.
    """

    renames = False
    gap = 2**20
    span = 32 * 2**20
    part_bytes = 16 * 2**20
    """An object is sent in parts of this many bytes, and no more of it is held."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url if url.endswith("://") else url.rstrip("/")
        self.name = self.url.rpartition("/")[2]
        self._reached = False
        # The Hub's file system fetches 5 MiB more than each read asks for, unless told otherwise.
        # Listings are not cached elsewhere: another machine may have written an object since.
        self.options = {"block_size": 1} if self.url.startswith("hf://") else {"use_listings_cache": False}
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
        """The folder around it."""
        return RemoteStorage(self.url[: -len(self.name)])

    def at(self, name: str) -> RemoteStorage:
        """The folder below it."""
        return RemoteStorage(self.url + ("" if self.url.endswith("://") else "/") + name)

    def write(self, name: str, parts: Iterable[Part]) -> None:
        """Send one object, part by part; it appears when the last part has been sent."""
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
        """The bytes ``start:stop`` of an object, as far as it goes, in one request."""
        content: bytes = self._ask(
            name, lambda: self.fs.cat_file(self._path(name), start=start or None, end=stop)
        )
        return content

    def size(self, name: str) -> int:
        """The size of an object in bytes."""
        return int(self._ask(name, lambda: self.fs.info(self._path(name)))["size"] or 0)

    def sizes(self) -> dict[str, int]:
        """The size in bytes of every object below; links are refused."""
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

    def pinned(self) -> RemoteStorage:
        """The same folder, on the Hub at the commit that its revision names now; elsewhere itself.

        Raises:
            StoreError: If the Hub cannot be asked, or has no such dataset or revision.
        """
        if not self.url.startswith("hf://datasets/"):
            return self
        from huggingface_hub import HfApi

        def pin() -> str:
            found = self.fs.resolve_path(self.url)
            if re.fullmatch("[0-9a-f]{40}", found.revision):
                return self.url
            api = HfApi(endpoint=self.fs.endpoint, token=self.fs.token)
            commit = api.dataset_info(found.repo_id, revision=found.revision).sha
            below = f"/{found.path_in_repo}" if found.path_in_repo else ""
            return f"hf://datasets/{found.repo_id}@{commit}{below}"

        try:
            return RemoteStorage(retrying(pin))
        except Exception as error:
            # The client's exceptions are many and its messages long; each becomes one line.
            raise StoreError(explained(error, dataset_of(self.url))) from error

    def zarr_store(self) -> Any:
        """What zarr reads from."""
        import zarr

        return zarr.storage.FsspecStore.from_url(self.url, storage_options=self.options, read_only=True)

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def _abandon(self, file: Any, name: str) -> None:
        """Give up an object that lacks a part; closing it would make it appear."""
        from fsspec.spec import AbstractBufferedFile

        with suppress(Exception):
            if isinstance(file, AbstractBufferedFile):
                file.closed = True
                file.discard()
            else:
                file.close()
                self.fs.rm(self._path(name))

    def _ask(self, name: str, request: Callable[[], T]) -> T:
        """Make a request that only reads; the Hub gets it again where its failure may pass."""
        if not self.url.startswith("hf://"):
            with self._errors(name):
                return request()
        try:
            answer = retrying(request, reached=self._reached)
        except Exception as error:
            if isinstance(error, FileNotFoundError) and not is_hubs(error):
                raise
            raise StoreError(explained(error, dataset_of(self.url))) from error
        self._reached = True
        return answer

    @contextmanager
    def _errors(self, name: str = "") -> Iterator[None]:
        """Turn what a client raises, which is of many kinds, into an OSError that says where and what."""
        try:
            yield
        except Exception as error:
            path = f"{self.url}/{name}" if name else self.url
            code = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EIO
            raise OSError(getattr(error, "errno", None) or code, one_line(error), path) from error
