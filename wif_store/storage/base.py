"""What a storage is, and what every storage does alike."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, Protocol

from wif_store.errors import DamageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

PARTIAL: Final = ".partial"
"""Ends the name of a file or folder that is still being written."""

Part = bytes | memoryview
Entry = dict[str, Any]
"""What the manifest says of a file: its ``size`` in bytes and its ``sha256``."""


class Storage(Protocol):
    """A folder somewhere. Names of files are relative to it, with slashes.

    Attributes:
        name: The last part of its path.
        renames: Whether a file or folder in it can be given another name in one step.
        gap: Two ranges of a file with fewer bytes than this between them are quicker read as one.
        span: How many bytes one of several threads best reads at once.
    """

    name: str
    renames: bool
    gap: int
    span: int

    @property
    def parent(self) -> Storage:
        """The folder around it."""
        ...

    def at(self, name: str) -> Storage:
        """The folder below it."""
        ...

    def write(self, name: str, parts: Iterable[Part]) -> None:
        """Write a file. It appears complete or not at all, and is durable once this returns."""
        ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``start:stop`` of a file, as far as the file goes."""
        ...

    def size(self, name: str) -> int:
        """The size of a file in bytes."""
        ...

    def sizes(self) -> dict[str, int]:
        """The size in bytes of every file below; links are refused."""
        ...

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file or folder."""
        ...

    def remove(self, name: str = "") -> None:
        """Remove a file, or a folder with everything in it."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file or folder another name, durably; only where ``renames``."""
        ...

    def hold(self) -> AbstractContextManager[None]:
        """Keep other processes out, where that can be done.

        Raises:
            BlockingIOError: If another process holds it.
        """
        ...

    def pinned(self) -> Storage:
        """The same folder at a revision that no later commit changes, where there are revisions."""
        ...

    def zarr_store(self) -> Any:
        """What zarr reads from."""
        ...


def write_described(storage: Storage, name: str, parts: Iterable[Part]) -> Entry:
    """Write a file, and return what the manifest says of it."""
    digest, size = hashlib.sha256(), 0

    def counted() -> Iterator[Part]:
        nonlocal size
        for part in parts:
            digest.update(part)
            size += memoryview(part).nbytes
            yield part

    storage.write(name, counted())
    return {"size": size, "sha256": digest.hexdigest()}


def refuse_link(store: str, name: str) -> None:
    """Refuse a link: it could lead out of the store.

    Raises:
        DamageError: Always.
    """
    msg = (
        f"{store}: {name} is a link or no ordinary file; expected only files: put a copy of its target there"
    )
    raise DamageError(msg)
