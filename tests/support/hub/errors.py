"""What the Hub says when it refuses: a status, a code in ``X-Error-Code`` and one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class HubError(Exception):
    """A refusal, rendered by the server as a JSON error with the headers clients look at."""

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})


def repo_not_found(authenticated: bool) -> HubError:
    """A repo that is missing, or private and not yours: the two must look alike."""
    message = "Repository not found" if authenticated else "Invalid username or password."
    return HubError(404 if authenticated else 401, message, "RepoNotFound")


def revision_not_found(revision: str) -> HubError:
    """No branch, tag, pull request or commit of that name."""
    return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(path: str, commit: str) -> HubError:
    """The revision is there, the path is not; the commit goes along, for clients cache the absence."""
    return HubError(404, f'Entry "{path}" does not exist', "EntryNotFound", {"X-Repo-Commit": commit})
