"""A dataset repository on the Hub: what stands where, requests that are made again, failures in one line."""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from wif_store.errors import DamageError, PublishError, one_line
from wif_store.format.manifest import MANIFEST_BYTES, parse_manifest
from wif_store.format.schema import MANIFEST
from wif_store.storage.hub_client import (
    explained,
    is_passing,
    is_transport,
    retrying,
    status_of,
    unwrapped,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from huggingface_hub import HfApi

    from wif_store.format.schema import Manifest

T = TypeVar("T")

OVERTAKEN: Final = frozenset({409, 412})
"""The statuses of a commit where somebody else's came first."""
TASK_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
"""What the name of a task may be where it is a part of paths."""


def store_folder(task: str) -> str:
    """Where a task's store stands in the repository."""
    return f"zarr/{task}.zarr"


def view_folder(task: str) -> str:
    """Where a task's Parquet files stand in the repository."""
    return f"data/{task}"


def tasks_of(paths: Iterable[str]) -> list[str]:
    """The tasks whose stores are among the files of a repository, whatever their names are."""
    ends = f".zarr/{MANIFEST}"
    names = (path for path in paths if path.startswith("zarr/") and path.endswith(ends))
    return sorted(name.removeprefix("zarr/").removesuffix(ends) for name in names)


def check_task_name(task: str, where: str) -> None:
    """Refuse a task whose name would lead somewhere else, or could write to a terminal.

    Raises:
        PublishError: Saying so; ``where`` names what has the task.
    """
    if not TASK_NAME.fullmatch(task):
        msg = f"{where} has a store of a task {task[:60]!a}; expected a name of letters, digits, _ . and -"
        raise PublishError(msg)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a revision: its size, and its SHA-256 (large files) or git's name for it (others)."""

    size: int
    sha256: str | None
    git_oid: str

    def holds(self, path: Path, size: int, sha256: str) -> bool:
        """Whether this is the content of a local file of that size and SHA-256."""
        if self.size != size:
            return False
        return self.sha256 == sha256 if self.sha256 else self.git_oid == git_oid(path.read_bytes())


def git_oid(content: bytes) -> str:
    """The name git gives to a blob of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class RemoteDataset:
    """One dataset repository.

    Attributes:
        name: ``OWNER/NAME``.
        api: The Hub's client.
    """

    def __init__(self, name: str, api: HfApi | None = None) -> None:
        from huggingface_hub import HfApi, HfFileSystem

        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
            msg = f"{name!a} names no repository: expected OWNER/NAME, as in whyitfailed/gemma2-acts"
            raise PublishError(msg)
        self.name, self.api = name, api or HfApi(library_name="wif-store")
        # The client reads 5 MiB more than it is asked for, unless told otherwise.
        self._ranges = HfFileSystem(endpoint=self.api.endpoint, token=self.api.token, block_size=1)
        self._reached = False

    @property
    def page(self) -> str:
        """Where a person looks at it."""
        return f"{self.api.endpoint}/datasets/{self.name}"

    def call(self, request: Callable[..., T], *args: Any, **options: Any) -> T:
        """Make a request of the client's, and again where the failure may pass.

        Raises:
            PublishError: If it fails for good.
        """
        try:
            answer = retrying(lambda: request(*args, **options), reached=self._reached)
        except Exception as raised:
            # The client's exceptions are many, and its messages long.
            raise self.failed(raised) from unwrapped(raised)
        self._reached = True
        return answer

    def failed(self, error: BaseException) -> PublishError:
        """The error that says in one line what went wrong; never with the token in it."""
        from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

        status, said = status_of(error), _said(unwrapped(error))
        if isinstance(error, OfflineModeIsEnabled):
            reason = "HF_HUB_OFFLINE is set: unset it to reach the Hub"
        elif status == 403:
            mend = "name a --repo of your own, or ask its owner for write access"
            reason = f"the token may not write here{said}: {mend}"
        elif status in (401, 404, 429) or isinstance(error, RepositoryNotFoundError):
            return PublishError(explained(error, f"dataset {self.name}"))
        elif status is not None and (is_passing(error) or status in OVERTAKEN):
            reason = f"the Hub answered {status}{said}: run the same command later; it goes on"
        elif status is not None:
            reason = f"the Hub refuses this with {status}{said}: mend what it names; see {self.page}"
        elif is_transport(error):
            reason = (
                f"no connection to the Hub at {self.api.endpoint}: run the same command when there is one"
            )
        else:
            reason = f"{type(error).__name__}: {one_line(error)}"
        return PublishError(f"dataset {self.name}: {reason}")

    # -- who and what --------------------------------------------------------------------------------

    def check_token(self) -> str:
        """The user whose token it is.

        Raises:
            PublishError: If there is no token, or it is not accepted, or only reads.
        """
        from huggingface_hub import get_token

        token = get_token() if self.api.token is None else self.api.token
        if not token:
            msg = "no token was found: run `hf auth login`, or set HF_TOKEN to a token that may write"
            raise PublishError(msg)
        user: dict[str, Any] = self.call(self.api.whoami)
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            msg = f"the token of {user['name']} only reads: make one that writes and run `hf auth login`"
            raise PublishError(msg)
        return str(user["name"])

    def create(self, *, private: bool) -> None:
        """Make the repository.

        Raises:
            PublishError: If it may not be made, or its name is taken by one that this user cannot see.
        """
        try:
            self.call(self.api.create_repo, self.name, repo_type="dataset", private=private)
        except PublishError as error:
            if status_of(error.__cause__) != 409:
                raise
            # It may be there by a request of ours whose answer was lost; then it can be seen.
            if self.is_private() is None:
                msg = f"the name {self.name} is taken by a dataset that you cannot see: choose another --repo"
                raise PublishError(msg) from error

    def head(self, revision: str) -> str | None:
        """The commit at the head of a branch; None where there is no such repository or branch."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            return self.commit(revision)
        except PublishError as error:
            if isinstance(error.__cause__, RepositoryNotFoundError | RevisionNotFoundError):
                return None
            raise

    def commit(self, revision: str) -> str:
        """The commit that a branch, a tag or a commit's name stands for.

        Raises:
            PublishError: If there is no such dataset or revision, or it cannot be read.
        """
        return str(self.call(self.api.dataset_info, self.name, revision=revision).sha)

    def is_private(self) -> bool | None:
        """Whether only some may read it; None where there is no such repository."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return bool(self.call(self.api.dataset_info, self.name).private)
        except PublishError as error:
            if isinstance(error.__cause__, RepositoryNotFoundError):
                return None
            raise

    # -- its files -----------------------------------------------------------------------------------

    def files(self, commit: str) -> dict[str, RemoteFile]:
        """Every file of a commit."""
        from huggingface_hub import RepoFile

        def tree() -> list[Any]:
            return list(
                self.api.list_repo_tree(self.name, recursive=True, revision=commit, repo_type="dataset")
            )

        found = (entry for entry in self.call(tree) if isinstance(entry, RepoFile))
        return {f.path: RemoteFile(f.size, f.lfs.sha256 if f.lfs else None, f.blob_id) for f in found}

    def fetch(self, path: str, commit: str, folder: Path) -> Path:
        """One file of a commit, into ``folder/path``. The client checks its size alone."""
        found = self.call(
            self.api.hf_hub_download, self.name, path, repo_type="dataset", revision=commit, local_dir=folder
        )
        return Path(found)

    def read(self, path: str, commit: str, start: int, stop: int) -> bytes:
        """A range of a file of a commit, in one request."""
        name = f"datasets/{self.name}@{commit}/{path}"
        content: bytes = self.call(self._ranges.cat_file, name, start=start, end=stop)
        return content

    def manifest(
        self, task: str, commit: str, files: Mapping[str, RemoteFile], folder: Path
    ) -> tuple[bytes, Manifest]:
        """Fetch and check the manifest of a task's store.

        Args:
            task: The task.
            commit: The commit.
            files: Every file of it.
            folder: Where the manifest's file goes.

        Raises:
            StoreError: If it is no manifest of this format version.
            DamageError: If it is too large, or that of another task.
        """
        path = f"{store_folder(task)}/{MANIFEST}"
        where = f"{self.name}/{store_folder(task)}"
        check_task_name(task, self.name)
        if files[path].size > MANIFEST_BYTES:
            msg = f"{where}: {MANIFEST} has {files[path].size} bytes; expected at most {MANIFEST_BYTES}: "
            msg += "it is none that wif-store wrote"
            raise DamageError(msg)
        content = self.fetch(path, commit, folder).read_bytes()
        manifest = parse_manifest(content, where)
        if manifest.task != task:
            found = manifest.task
            msg = f"{where} is a store of {found}; expected one of {task}: ask its owner to push it again"
            raise DamageError(msg)
        return content, manifest


@contextmanager
def quiet_client() -> Iterator[None]:
    """Keep the Hub's client from writing to the terminal while the body runs.

    It draws a bar for each file and prints a line for each try; the lines hold signed addresses.
    """
    from huggingface_hub.utils.logging import get_verbosity, set_verbosity
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    bars, verbosity = not are_progress_bars_disabled(), get_verbosity()
    disable_progress_bars()
    set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        set_verbosity(verbosity)
        if bars:
            enable_progress_bars()


def _said(error: BaseException) -> str:
    said = getattr(error, "server_message", None)
    return f" ({' '.join(str(said).split())[:160]})" if said else ""
