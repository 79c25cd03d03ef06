"""The Hub itself: two listeners, the repos under a folder, accounts, a log, faults."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.hub import api, transfer  # noqa: F401  (their routes)
from tests.support.hub.errors import HubError
from tests.support.hub.faults import Entry, Fault, Faults, Match, RequestLog
from tests.support.hub.repos import KINDS, Repo
from tests.support.hub.router import dispatch
from tests.support.hub.wire import Account, Listener, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.hub.records import Commit
    from tests.support.hub.transfer import Ticket

__all__ = ["Account", "Entry", "Fault", "Hub", "HubError"]


class Hub:
    """A Hugging Face Hub on 127.0.0.1, for as long as the ``with`` block lasts.

    Args:
        root: Folder for the repos; what it already holds is served.
        port: Port of the API; 0 takes a free one. The CDN always takes a free one.
        user: Who the two standard tokens belong to, and so the namespace they may write to.

    Attributes:
        token: A token of ``user`` that writes.
        read_token: A token of ``user`` that only reads.
        stranger_token: A token that writes, of somebody else ("stranger").
        log: Every request; see `RequestLog`.
        part_size: Bytes above which an upload is asked for in parts of this size.
        page_size: Entries in one page of a listing.
    """

    def __init__(self, root: Path, *, port: int = 0, user: str = "whyitfailed") -> None:
        self.root = root
        self.user = user
        self.log = RequestLog()
        self.part_size = 1 << 30
        self.page_size = 1000
        self.accounts: dict[str, Account] = {}
        self.token = self.add_account(user)
        self.read_token = self.add_account(user, role="read")
        self.stranger_token = self.add_account("stranger")
        self.repos: dict[str, Repo] = {}
        for found in sorted(root.glob("*/*/*/repo.json")):
            kind, owner, name = found.parent.relative_to(root).parts
            repo = Repo(found.parent, kind.removesuffix("s"), f"{owner}/{name}")
            self.repos[repo.prefix] = repo
        self._faults = Faults()
        self._tickets: dict[str, Ticket] = {}
        self._lock = threading.Lock()
        self._listeners = [
            Listener(host, at, self._handle, self.log, self._faults)
            for host, at in (("hub", port), ("cdn", 0))
        ]
        self.endpoint, self.cdn = (listener.url for listener in self._listeners)

    def __enter__(self) -> Hub:
        for listener in self._listeners:
            listener.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _handle(self, request: Request) -> Any:
        return dispatch(self, request)

    def stop(self) -> None:
        """Go away: from now on clients meet a refused connection."""
        for listener in self._listeners:
            listener.stop()
        self._listeners = []

    @property
    def broken(self) -> list[Exception]:
        """Errors of the server itself, which no test should meet."""
        return [error for listener in self._listeners for error in listener.broken]

    @property
    def env(self) -> dict[str, str]:
        """What a client's process needs in its environment; its caches and tokens stay under ``root``."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": self.token,
            "HF_HOME": str(self.root / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "NO_PROXY": "127.0.0.1",
        }

    def environ(self, token: str | None = "", **more: str) -> dict[str, str]:
        """The environment for a client's process: this one's without its ``HF_*``, plus ``env``.

        Args:
            token: The token to be logged in with; None for nobody's, "" for the one that writes.
            more: Further variables.
        """
        own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env = {**own, **self.env, **more}
        if token is None:
            del env["HF_TOKEN"]
        elif token:
            env["HF_TOKEN"] = token
        return env

    def add_account(self, user: str, role: str = "write", orgs: tuple[str, ...] = ()) -> str:
        """A new token for a user."""
        token = f"hf_{secrets.token_hex(17)}"
        self.accounts[token] = Account(user, role, orgs)
        return token

    # -- repos ------------------------------------------------------------------------------------------

    def repo(self, name: str, kind: str = "dataset") -> Repo:
        """A repo by ``owner/name`` and kind ("dataset", "model"), or by prefix (``datasets/owner/name``)."""
        prefix = name if name.count("/") == 2 else f"{kind}s/{name}"
        if prefix not in self.repos:
            raise HubError(404, f"No repo {prefix}", "RepoNotFound")
        return self.repos[prefix]

    def create_repo(self, name: str, kind: str, *, private: bool = False, author: str = "") -> Repo | None:
        """A new repo; None where the name is taken."""
        if kind not in KINDS:
            raise HubError(400, f"This Hub keeps {' and '.join(f'{kind}s' for kind in KINDS)}, no {kind}s")
        with self._lock:
            prefix = f"{kind}s/{name}"
            if prefix in self.repos:
                return None
            author = author or name.split("/")[0]
            repo = Repo.create(self.root / prefix, kind, name, author, private=private)
            self.repos[prefix] = repo
            return repo

    def delete_repo(self, prefix: str) -> None:
        """Remove a repo and all it holds."""
        with self._lock:
            shutil.rmtree(self.repos.pop(prefix).folder)

    def seed(
        self,
        repo_id: str,
        repo_type: str,
        files: Mapping[str, bytes | Path],
        *,
        private: bool = False,
        gated: str | None = None,
    ) -> Commit:
        """Put files into a repo, made where it is missing, as one commit by its owner.

        Args:
            repo_id: ``owner/name``; any owner will do.
            repo_type: "dataset" or "model".
            files: Content, or a local file or folder to copy, by path in the repo.
            private: Whether others can see the repo.
            gated: "auto" or "manual" for a repo whose files need a grant.

        Returns:
            The commit.
        """
        repo = self.create_repo(repo_id, repo_type, private=private) or self.repo(repo_id, repo_type)
        repo.update(private=private, gated=gated)
        changes = {path: repo.adopt(path, content) for path, content in _flat(files).items()}
        return repo.commit("main", changes, title="Seed", author=repo.owner)

    # -- tickets ----------------------------------------------------------------------------------------

    def issue(self, ticket: Ticket) -> str:
        """The name of a new ticket, for an address that needs no token."""
        name = secrets.token_urlsafe(16)
        self._tickets[name] = ticket
        return name

    def redeem(self, request: Request, sha256: str) -> Ticket:
        """The ticket a request shows, which must be for this object."""
        ticket = self._tickets.get(request.query.get("ticket", [""])[0])
        if ticket is None or ticket.sha256 != sha256:
            raise HubError(403, "The signature does not match")
        return ticket

    # -- failures ---------------------------------------------------------------------------------------

    def fail(self, match: Match | None = None, **how: Any) -> Fault:
        """Fail requests from now on; see `Fault` for the ways.

        Args:
            match: A regular expression searched in ``METHOD /path``, or a predicate on an `Entry`; None: all.
            how: ``status=429, retry_after=1, times=2``, ``reset_after=1000``, ...

        Returns:
            The fault, whose ``hits`` counts and whose ``cancel()`` ends it.
        """
        return self._faults.add(Fault(match, **how))

    def heal(self) -> None:
        """End every fault."""
        self._faults.clear()


def _flat(files: Mapping[str, bytes | Path]) -> dict[str, bytes | Path]:
    flat: dict[str, bytes | Path] = {}
    for path, content in files.items():
        if isinstance(content, Path) and content.is_dir():
            inside = (p for p in sorted(content.rglob("*")) if p.is_file())
            flat |= {f"{path}/{p.relative_to(content).as_posix()}".lstrip("./"): p for p in inside}
        else:
            flat[path] = content
    return flat
