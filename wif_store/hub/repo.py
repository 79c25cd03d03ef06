"""A dataset repository on the Hub: requests that are tried again, and failures in one line."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from wif_store.errors import PublishError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from huggingface_hub import HfApi

T = TypeVar("T")

WAITS: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between tries of a request that failed for no fault of its own."""
LONGEST_WAIT: Final = 60.0
PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
OVERTAKEN: Final = frozenset({409, 412})
"""What a commit meets where somebody else's came first."""


class Stale(Exception):
    """Someone else has committed since the head was read: look again."""


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

    The client tries uploads and downloads again by itself, but not the small requests that create,
    list and commit; ``call`` does that.

    Attributes:
        name: ``OWNER/NAME``.
        api: The Hub's client.
    """

    def __init__(self, name: str, api: HfApi | None = None) -> None:
        from huggingface_hub import HfApi

        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            msg = f"{name!r} names no repository: expected OWNER/NAME, as in whyitfailed/gemma2-acts"
            raise PublishError(msg)
        self.name, self.api = name, api or HfApi(library_name="wif-store")
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
        for wait in tries():
            try:
                answer = request(*args, **options)
                self._reached = True
                return answer
            except Exception as raised:
                # The client's exceptions are many, and its messages long.
                error = _unwrapped(raised)
                offline = _is_transport(error) and not self._reached
                if wait is None or offline or not is_passing(error):
                    raise self.failed(error) from error
                pause(wait, error)
        raise AssertionError

    def failed(self, error: BaseException) -> PublishError:
        """The error that says in one line what went wrong; never with the token in it."""
        return PublishError(f"{self.name}: {_reason(error, self)}")

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
            if _status(error.__cause__) != 409:
                raise
            # It may be there by a request of ours whose answer was lost; then it can be seen.
            if self.is_private() is None:
                msg = f"the name {self.name} is taken by a dataset that you cannot see: choose another --repo"
                raise PublishError(msg) from error

    def head(self, revision: str) -> str | None:
        """The commit at the head of a branch; None where there is no such repository or branch."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            return str(self.call(self._info, revision).sha)
        except PublishError as error:
            if isinstance(error.__cause__, RepositoryNotFoundError | RevisionNotFoundError):
                return None
            raise

    def is_private(self) -> bool | None:
        """Whether only some may read it; None where there is no such repository."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return bool(self.call(self._info, None).private)
        except PublishError as error:
            if isinstance(error.__cause__, RepositoryNotFoundError):
                return None
            raise

    def _info(self, revision: str | None) -> Any:
        return self.api.dataset_info(self.name, revision=revision)

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


def tries() -> Iterator[float | None]:
    """For each try, the seconds to wait before the next; None for the last."""
    yield from WAITS
    yield None


def pause(seconds: float, error: BaseException | None) -> None:
    """Wait that long, or as long as the Hub asks for in ``error``."""
    response = getattr(error, "response", None)
    asked = "" if response is None else response.headers.get("Retry-After", "")
    time.sleep(max(seconds, min(float(asked), LONGEST_WAIT) if asked.isdecimal() else 0.0))


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    status = _status(error)
    if status is not None:
        return status in PASSING
    return _is_transport(error)


def _unwrapped(error: Exception) -> Exception:
    """What an upload failed with: the client raises it as the cause of an error that names the file alone."""
    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, Exception) else error


def _status(error: BaseException | None) -> int | None:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return int(error.response.status_code)
    return None


def _is_transport(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError | OfflineModeIsEnabled):
        return False
    return (
        isinstance(error, ConnectionError | TimeoutError | LocalEntryNotFoundError)
        # The library the client speaks HTTP with is its own affair.
        or any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
    )


def _reason(error: BaseException, remote: RemoteDataset) -> str:
    from huggingface_hub import errors

    status = _status(error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it to reach the Hub"
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated: accept its terms at {remote.page}, then run `hf auth login`"
    if status == 401 and not isinstance(error, errors.RepositoryNotFoundError):
        return "the Hub does not accept the token: run `hf auth login`, or correct HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such dataset, or it is private: check the name, or run `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"no such branch, tag or commit: see {remote.page}"
    if status == 403:
        return (
            f"the token may not write here{_said(error)}: name a --repo of your own, or ask its owner for "
            "write access"
        )
    if status == 429:
        return "the Hub's rate limit is reached: wait a few minutes and run the same command; it goes on"
    if status is not None and not is_passing(error) and status not in OVERTAKEN:
        return f"the Hub refuses this with {status}{_said(error)}: mend what it names; see {remote.page}"
    if status is not None:
        return f"the Hub answered {status}{_said(error)}: run the same command later; it goes on"
    if _is_transport(error):
        return f"no connection to the Hub at {remote.api.endpoint}: run the same command when there is one"
    return f"{type(error).__name__}: {one_line(error)}"


def _said(error: BaseException) -> str:
    said = getattr(error, "server_message", None)
    return f" ({' '.join(str(said).split())[:160]})" if said else ""
