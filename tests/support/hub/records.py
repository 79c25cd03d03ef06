"""The nouns of a repository, all immutable: files, commits, pull requests, and what ``repo.json`` holds."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def now() -> str:
    """The time as the Hub writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def git_oid(content: bytes) -> str:
    """The name git gives to a blob of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class File:
    """One file of one revision. ``oid`` is git's name: of the content, or of the LFS pointer to it."""

    sha256: str
    size: int
    oid: str
    lfs: bool

    @classmethod
    def large(cls, sha256: str, size: int) -> File:
        """A file kept in LFS storage."""
        return cls(sha256, size, git_oid(cls._pointer(sha256, size)), True)

    @classmethod
    def regular(cls, content: bytes) -> File:
        """A file kept in git itself."""
        return cls(hashlib.sha256(content).hexdigest(), len(content), git_oid(content), False)

    @staticmethod
    def _pointer(sha256: str, size: int) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()

    @property
    def etag(self) -> str:
        """What the Hub's ``ETag`` holds: the SHA-256 of a large file, git's name of a regular one."""
        return self.sha256 if self.lfs else self.oid

    @property
    def pointer_size(self) -> int:
        """Bytes of the LFS pointer that stands for the content in git."""
        return len(self._pointer(self.sha256, self.size))


@dataclass(frozen=True)
class Commit:
    """An immutable revision: its list of files, and where it came from."""

    parent: str | None
    title: str
    message: str
    author: str
    files: Mapping[str, File]
    date: str = field(default_factory=now)
    sha: str = field(default_factory=lambda: secrets.token_hex(20))


@dataclass(frozen=True)
class Pull:
    """A pull request; its commits are the branch ``refs/pr/N``."""

    number: int
    title: str
    author: str
    base: str
    status: str
    created: str
    merged_as: str | None = None


@dataclass(frozen=True)
class State:
    """What ``repo.json`` holds. A change makes a new one, written in one piece."""

    private: bool
    gated: str | None
    created: str
    branches: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    pulls: Mapping[str, Pull] = field(default_factory=dict)
    granted: tuple[str, ...] = ()


def folders_of(paths: Iterable[str]) -> set[str]:
    """Every folder above one of these paths."""
    return {path[:i] for path in paths for i, char in enumerate(path) if char == "/"}
