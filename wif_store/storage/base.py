"""What a place is, and what every place does alike."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, Protocol

from wif_store.errors import DamageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

PARTIAL: Final = ".partial"
"""Ends the name of what is not whole yet."""

Part = bytes | memoryview
Entry = dict[str, Any]
"""What the manifest says of a file: its ``size`` in bytes and its ``sha256``."""


class Storage(Protocol):
    """A folder somewhere. Names of files are relative to it, with slashes.

    Attributes:
        name: Its last part.
        renames: Whether a folder in it can be given another name at once.
        gap: Bytes between two ranges of a file that are quicker read than skipped.
        span: Bytes that are best read at once, by one of several threads.
    """

    name: str
    renames: bool
    gap: int
    span: int

    @property
    def parent(self) -> Storage:
        """The place around it."""
        ...

    def at(self, name: str) -> Storage:
        """The place below it."""
        ...

    def write(self, name: str, parts: Iterable[Part]) -> None:
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


def write_described(place: Storage, name: str, parts: Iterable[Part]) -> Entry:
    """Write a file; what the manifest says of it."""
    digest, size = hashlib.sha256(), 0

    def counted() -> Iterator[Part]:
        nonlocal size
        for part in parts:
            digest.update(part)
            size += memoryview(part).nbytes
            yield part

    place.write(name, counted())
    return {"size": size, "sha256": digest.hexdigest()}


def refuse_link(store: str, name: str) -> None:
    """Links could lead out of a store.

    Raises:
        DamageError: Always.
    """
    msg = f"{store}: {name} is a link or no ordinary file; expected only files: copy what it stands for"
    raise DamageError(msg)
