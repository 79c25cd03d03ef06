"""Repositories as folders on disk: content-addressed blobs, immutable commits, refs swapped in one step.

A repo's folder holds ``blobs/<sha256>``, ``commits/<sha>.json`` (the full list of files of one revision)
and ``repo.json`` (settings and refs). A commit is written first and its ref moved after, in one rename,
so a reader of a branch sees the old revision or the new one and nothing between.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import secrets
import threading
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, BinaryIO

from tests.support.hub.errors import HubError, entry_not_found, revision_not_found
from tests.support.hub.records import Commit, File, Pull, State, folders_of, now

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

KINDS = ("model", "dataset")
MAX_FILES_PER_FOLDER = 10_000
MAX_REGULAR_BYTES = 10_000_000
LFS_PATTERNS = (
    "*.7z", "*.arrow", "*.bin", "*.bz2", "*.gguf", "*.gz", "*.h5", "*.model", "*.msgpack", "*.npy", "*.npz",
    "*.onnx", "*.parquet", "*.pickle", "*.pkl", "*.pt", "*.pth", "*.safetensors", "*.tar", "*.tgz", "*.xz",
    "*.zip", "*.zst", "*.png", "*.jpg", "*.jpeg", "*.webp",
)  # fmt: skip
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS)


class Repo:
    """One model or dataset repository under ``folder``."""

    def __init__(self, folder: Path, kind: str, name: str) -> None:
        self.folder, self.kind, self.name = folder, kind, name
        self.lock = threading.RLock()
        self._commits: dict[str, Commit] = {}
        data = json.loads((folder / "repo.json").read_text())
        pulls = {number: Pull(**pull) for number, pull in data["pulls"].items()}
        self.state = State(**{**data, "pulls": pulls, "granted": tuple(data["granted"])})

    @classmethod
    def create(cls, folder: Path, kind: str, name: str, author: str, *, private: bool) -> Repo:
        """A new repo with the Hub's initial commit, which holds ``.gitattributes``."""
        for sub in ("blobs", "commits"):
            (folder / sub).mkdir(parents=True)
        _write_json(folder / "repo.json", asdict(State(private=private, gated=None, created=now())))
        repo = cls(folder, kind, name)
        content = GITATTRIBUTES.encode()
        repo.add_blob([content])
        first = Commit(None, "initial commit", "", author, {".gitattributes": File.regular(content)})
        repo._record(first)
        repo.update(branches={"main": first.sha})
        return repo

    @property
    def prefix(self) -> str:
        """``datasets/owner/name`` or ``models/owner/name``."""
        return f"{self.kind}s/{self.name}"

    @property
    def owner(self) -> str:
        """The namespace the repo stands in."""
        return self.name.split("/")[0]

    def update(self, **changes: Any) -> None:
        """Replace fields of the state, on disk first and in memory after."""
        with self.lock:
            state = replace(self.state, **changes)
            _write_json(self.folder / "repo.json", asdict(state))
            self.state = state

    # -- blobs ------------------------------------------------------------------------------------------

    def blob(self, sha256: str) -> Path:
        """Where the content of that hash is, or would be."""
        return self.folder / "blobs" / sha256

    def spool(self, chunks: Iterable[bytes]) -> tuple[Path, str, int]:
        """Write content to a temporary file: its path, SHA-256 and size. Nothing stays of a broken one."""
        path = self.folder / f"upload-{secrets.token_hex(8)}.partial"
        digest, count = hashlib.sha256(), 0
        try:
            with path.open("wb") as out:
                for chunk in chunks:
                    digest.update(chunk)
                    count += out.write(chunk)
        except BaseException:
            path.unlink()
            raise
        return path, digest.hexdigest(), count

    def add_blob(self, chunks: Iterable[bytes], sha256: str | None = None, size: int | None = None) -> File:
        """Store content, refusing what has not the hash and the size it was announced with."""
        path, found, count = self.spool(chunks)
        if sha256 is not None and (found, count) != (sha256, size):
            path.unlink()
            raise HubError(400, f"Content does not match: {found} of {count} bytes, not {sha256} of {size}")
        path.replace(self.blob(found))
        return File.large(found, count)

    def adopt(self, path: str, content: bytes | Path) -> File:
        """Store a local file as the Hub would keep one of this path and content."""
        if isinstance(content, bytes):
            stored = self.add_blob([content])
            return stored if self.is_large(path, len(content), content[:512]) else File.regular(content)
        with content.open("rb") as file:
            sample = file.read(512)
            file.seek(0)
            stored = self.add_blob(_chunks(file))
        return stored if self.is_large(path, stored.size, sample) else File.regular(content.read_bytes())

    @staticmethod
    def is_large(path: str, size: int, sample: bytes) -> bool:
        """Whether a file goes to LFS: by its name, its size, or because it is not text."""
        by_name = any(fnmatch.fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in LFS_PATTERNS)
        return size > 0 and (by_name or size > MAX_REGULAR_BYTES or b"\0" in sample or not _is_text(sample))

    # -- revisions --------------------------------------------------------------------------------------

    def commit_at(self, revision: str) -> Commit:
        """The commit that a branch, tag, pull request or (abbreviated) commit id names now."""
        state = self.state
        sha = state.branches.get(revision) or state.tags.get(revision)
        if sha is None and revision.startswith("refs/"):
            folder, _, name = revision.removeprefix("refs/").partition("/")
            sha = {"heads": state.branches, "tags": state.tags}.get(folder, {}).get(name)
        if sha is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            names = [path.stem for path in (self.folder / "commits").glob(f"{revision}*.json")]
            sha = names[0] if len(names) == 1 else None
        if sha is None:
            raise revision_not_found(revision)
        return self._load(sha)

    def head(self, branch: str, parent: str | None) -> Commit:
        """The head of a branch, which must be ``parent`` where one is named: the optimistic lock."""
        head = self.commit_at(branch)
        if parent is not None and not head.sha.startswith(parent.lower()):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        return head

    def file_at(self, revision: str, path: str) -> tuple[Commit, File]:
        """One file of a revision, and the commit it was found in."""
        commit = self.commit_at(revision)
        if path not in commit.files:
            raise entry_not_found(path, commit.sha)
        return commit, commit.files[path]

    def read(self, path: str, revision: str = "main") -> bytes:
        """The content of a file: the shortest way for a test to look at what was pushed."""
        return self.blob(self.file_at(revision, path)[1].sha256).read_bytes()

    def history(self, revision: str = "main") -> Iterator[Commit]:
        """The commits behind a revision, newest first."""
        sha: str | None = self.commit_at(revision).sha
        while sha is not None:
            commit = self._load(sha)
            yield commit
            sha = commit.parent

    def last_changes(self, revision: str) -> dict[str, Commit]:
        """For every file of a revision, the commit that gave it its content."""
        found: dict[str, Commit] = {}
        head = self.commit_at(revision)
        for commit in self.history(revision):
            for path in head.files.keys() - found.keys():
                before = self._load(commit.parent).files.get(path) if commit.parent else None
                if before != commit.files.get(path):
                    found[path] = commit
        return found

    def commit(
        self,
        branch: str,
        changes: Mapping[str, File | None],
        *,
        title: str,
        message: str = "",
        author: str,
        parent: str | None = None,
    ) -> Commit:
        """Put files on (or, with None, take them off) a branch; ``parent`` must still be its head."""
        with self.lock:
            if branch not in self.state.branches:
                raise revision_not_found(branch)
            head = self.head(branch, parent)
            kept = {path: file for path, file in head.files.items() if path not in changes}
            added = {path: file for path, file in changes.items() if file is not None}
            files = dict(sorted({**kept, **added}.items()))
            _check_tree(files)
            new = Commit(head.sha, title, message, author, files)
            self._record(new)
            self.update(branches={**self.state.branches, branch: new.sha})
            return new

    # -- refs and pull requests -------------------------------------------------------------------------

    def set_ref(self, kind: str, name: str, sha: str) -> None:
        """Add a branch or a tag ("branches", "tags"); a name that is taken is refused."""
        with self.lock:
            refs = getattr(self.state, kind)
            if name in refs:
                raise HubError(409, f"Reference already exists: {name}")
            self.update(**{kind: {**refs, name: sha}})

    def delete_ref(self, kind: str, name: str) -> None:
        """Remove a branch or a tag; ``main`` stays."""
        with self.lock:
            refs = dict(getattr(self.state, kind))
            if name not in refs:
                raise revision_not_found(name)
            if (kind, name) == ("branches", "main"):
                raise HubError(403, "Cannot delete the main branch")
            del refs[name]
            self.update(**{kind: refs})

    def open_pull(self, base: str, title: str, author: str, status: str) -> Pull:
        """A pull request onto ``base``; its branch starts at the head of the base."""
        with self.lock:
            number = len(self.state.pulls) + 1
            pull = Pull(number, title, author, base, status, now())
            head = self.commit_at(base).sha
            self.update(
                branches={**self.state.branches, f"refs/pr/{number}": head},
                pulls={**self.state.pulls, str(number): pull},
            )
            return pull

    def pull(self, number: int) -> Pull:
        """The pull request of that number."""
        try:
            return self.state.pulls[str(number)]
        except KeyError:
            raise HubError(404, f"Discussion {number} not found") from None

    def set_pull(self, pull: Pull) -> None:
        """Record a pull request's new status."""
        self.update(pulls={**self.state.pulls, str(pull.number): pull})

    def merge(self, number: int, author: str) -> Commit:
        """Land a pull request's changes on its base; files that changed on both sides are a conflict."""
        with self.lock:
            pull = self.pull(number)
            if pull.status not in ("open", "draft"):
                raise HubError(409, f"Pull request {number} is {pull.status}")
            known = {commit.sha for commit in self.history(pull.base)}
            origin = next(c for c in self.history(f"refs/pr/{number}") if c.sha in known)
            changes = _diff(origin.files, self.commit_at(f"refs/pr/{number}").files)
            if clash := sorted(changes.keys() & _diff(origin.files, self.commit_at(pull.base).files).keys()):
                raise HubError(409, f"Merge conflict in {', '.join(clash)}")
            title = f"{pull.title} (#{number})"
            merged = self.commit(pull.base, changes, title=title, author=author)
            self.set_pull(replace(pull, status="merged", merged_as=merged.sha))
            return merged

    # -- disk -------------------------------------------------------------------------------------------

    def _record(self, commit: Commit) -> None:
        _write_json(self.folder / "commits" / f"{commit.sha}.json", asdict(commit))
        self._commits[commit.sha] = commit

    def _load(self, sha: str) -> Commit:
        if sha not in self._commits:
            data = json.loads((self.folder / "commits" / f"{sha}.json").read_text())
            files = {path: File(**file) for path, file in data["files"].items()}
            self._commits[sha] = Commit(**{**data, "files": files})
        return self._commits[sha]


def _check_tree(files: Mapping[str, File]) -> None:
    for path in files:
        if any(part in ("", ".", "..", ".git") for part in path.split("/")):
            raise HubError(400, f"Invalid path in repo: {path!r}")
    if clash := sorted(files.keys() & folders_of(files)):
        raise HubError(400, f"{clash[0]} is a file and a folder")
    for folder, count in Counter(path.rpartition("/")[0] for path in files).items():
        if count > MAX_FILES_PER_FOLDER:
            raise HubError(400, f"{count} files in {folder or 'the root'}: at most {MAX_FILES_PER_FOLDER}")


def _diff(old: Mapping[str, File], new: Mapping[str, File]) -> dict[str, File | None]:
    return {path: new.get(path) for path in old.keys() | new.keys() if old.get(path) != new.get(path)}


def _is_text(sample: bytes) -> bool:
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.end >= len(sample) and error.reason == "unexpected end of data"
    return True


def _chunks(file: BinaryIO, size: int = 1 << 20) -> Iterator[bytes]:
    while chunk := file.read(size):
        yield chunk


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    partial = path.with_suffix(f".{secrets.token_hex(4)}.partial")
    partial.write_text(json.dumps(data))
    partial.replace(path)
