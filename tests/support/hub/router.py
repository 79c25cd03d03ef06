"""Which handler answers which request, and who may ask it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tests.support.hub.errors import HubError, repo_not_found

if TYPE_CHECKING:
    from tests.support.hub.repos import Repo
    from tests.support.hub.server import Hub
    from tests.support.hub.wire import Account, Request, Response

NAME = r"[^/]+/[^/]+"
API = rf"/api/(?P<kind>model|dataset)s/(?P<repo>{NAME})"
FILES = rf"/(?:(?P<kind>dataset)s/)?(?P<repo>{NAME})"
REV = r"(?P<rev>refs/(?:pr|convert)/[^/]+|[^/]+)"  # the file system client leaves the slashes of these bare

Handler = Callable[..., "Response"]


@dataclass(frozen=True)
class Route:
    """One line of the table. ``need`` is what the caller must be allowed to do with the repo.

    "read": see it; "contents": have its files, gated or not; "propose": hold a token that writes, somewhere;
    "write": change it; "ticket": anything, for the address carries a ticket; None: no repo is concerned.
    """

    method: str
    pattern: re.Pattern[str]
    need: str | None
    handler: Handler


ROUTES: list[Route] = []


def route(method: str, path: str, need: str | None = "read") -> Callable[[Handler], Handler]:
    """Register a handler; the groups of ``path`` become its keyword arguments, ``repo`` a Repo."""

    def register(handler: Handler) -> Handler:
        ROUTES.append(Route(method, re.compile(path), need, handler))
        return handler

    return register


def dispatch(hub: Hub, request: Request) -> Response:
    """Find the handler, check the caller's rights, answer."""
    request.account = authenticate(hub, request)
    request.entry.user = request.account.user if request.account else None
    method = "GET" if request.method == "HEAD" else request.method
    for line in ROUTES:
        match = line.pattern.fullmatch(request.raw_path)
        if match is None or line.method != method:
            continue
        found: dict[str, Any] = {name: unquote(value or "") for name, value in match.groupdict().items()}
        if line.need is not None:
            request.entry.repo = f"{found.pop('kind') or 'model'}s/{found['repo']}"
            found["repo"] = admit(hub, request.account, request.entry.repo, line.need)
        return line.handler(hub, request, **found)
    if "/xet-" in request.raw_path:
        raise HubError(404, "This Hub has no Xet storage: set HF_HUB_DISABLE_XET=1")
    if request.raw_path.startswith(("/api/models/", "/api/datasets/")):
        raise repo_not_found(request.account is not None)
    raise HubError(404, f"No such page: {request.method} {request.raw_path}")


def authenticate(hub: Hub, request: Request) -> Account | None:
    """The account behind the request's token; none without one, and a token nobody has is refused."""
    token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    if request.entry.host == "cdn" or not token:
        return None
    if token not in hub.accounts:
        raise HubError(401, "Invalid credentials in Authorization header")
    return hub.accounts[token]


def admit(hub: Hub, account: Account | None, prefix: str, need: str) -> Repo:
    """The repo, if the caller may do what the route is for; otherwise the refusal the Hub would give."""
    repo = hub.repos.get(prefix)
    mine = account is not None and repo is not None and repo.owner in account.namespaces
    if repo is None or (repo.state.private and not mine and need != "ticket"):
        raise repo_not_found(account is not None)
    if need == "contents" and repo.state.gated and not mine:
        what = f"Access to {repo.kind} {repo.name} is restricted"
        if account is None:
            hint = "You must have access to it and be authenticated to access it. Please log in."
            raise HubError(401, f"{what}. {hint}", "GatedRepo")
        if account.user not in repo.state.granted:
            hint = f"Visit {hub.endpoint}/{repo.prefix} to ask for access."
            raise HubError(403, f"{what} and you are not in the authorized list. {hint}", "GatedRepo")
    if need == "propose":
        require_write_token(account)
    if need == "write":
        require_write(account, repo)
    return repo


def require_write_token(account: Account | None) -> Account:
    """An account whose token may write, somewhere."""
    if account is None:
        raise HubError(401, "Invalid username or password.")
    if account.role != "write":
        raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")
    return account


def require_write(account: Account | None, repo: Repo) -> None:
    """An account that may write to this repo."""
    if repo.owner not in require_write_token(account).namespaces:
        raise HubError(403, f"Forbidden: you have no write access to {repo.prefix}")
