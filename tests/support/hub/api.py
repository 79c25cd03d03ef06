"""The Hub's JSON API: accounts, repos, revisions, trees, refs, discussions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlencode

import yaml

from tests.support.hub.errors import HubError, entry_not_found
from tests.support.hub.records import folders_of, git_oid
from tests.support.hub.router import API, REV, require_write, require_write_token, route
from tests.support.hub.wire import Request, Response

if TYPE_CHECKING:
    from tests.support.hub.records import Commit, File, Pull
    from tests.support.hub.repos import Repo
    from tests.support.hub.server import Hub

T = TypeVar("T")


# -- accounts and repos ---------------------------------------------------------------------------------


@route("GET", "/api/whoami-v2", need=None)
def whoami(hub: Hub, request: Request) -> Response:
    """Whom the token speaks for."""
    account = request.account
    if account is None:
        raise HubError(401, "Invalid username or password.")
    token = {"displayName": "loopback", "role": account.role}
    orgs = [{"type": "org", "name": org, "fullname": org, "roleInOrg": "write"} for org in account.orgs]
    user = {"type": "user", "id": git_oid(account.user.encode())[:24], "name": account.user}
    return Response.json({**user, "fullname": account.user, "orgs": orgs, "auth": {"accessToken": token}})


@route("POST", "/api/repos/create", need=None)
def create_repo(hub: Hub, request: Request) -> Response:
    """A new repo under the caller's name or an organisation's; a name that is taken is a 409."""
    account = require_write_token(request.account)
    asked = request.json()
    kind, owner = asked.get("type") or "model", asked.get("organization") or account.user
    if owner not in account.namespaces:
        raise HubError(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
    name = f"{owner}/{asked['name']}"
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    new = hub.create_repo(name, kind, private=private, author=account.user)
    url = f"{hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
    if new is None:
        message = f"You already created this {kind} repo: {name}"
        return Response.json({"error": message, "url": url}, 409, {"X-Error-Message": message})
    return Response.json({"url": url, "name": name, "id": name})


@route("DELETE", "/api/repos/delete", need=None)
def delete_repo(hub: Hub, request: Request) -> Response:
    """Remove a repo and everything in it."""
    asked, account = request.json(), require_write_token(request.account)
    prefix = f"{asked.get('type') or 'model'}s/{asked.get('organization') or account.user}/{asked['name']}"
    require_write(account, hub.repo(prefix))
    hub.delete_repo(prefix)
    return Response(b"OK")


@route("PUT", f"{API}/settings", need="write")
def settings(hub: Hub, request: Request, repo: Repo) -> Response:
    """Visibility and gating."""
    asked = request.json()
    if "visibility" in asked or "private" in asked:
        repo.update(private=asked.get("visibility") == "private" or bool(asked.get("private")))
    if "gated" in asked:
        repo.update(gated=asked["gated"] or None)
    return Response.json({"private": repo.state.private, "gated": repo.state.gated or False})


@route("GET", f"{API}/auth-check", need="contents")
@route("GET", f"{API}/auth-check/write", need="write")
def auth_check(hub: Hub, request: Request, repo: Repo) -> Response:
    """Whether the caller may read, or write."""
    return Response.json({"ok": True})


@route("GET", API)
@route("GET", f"{API}/revision/{REV}")
def info(hub: Hub, request: Request, repo: Repo, rev: str = "main") -> Response:
    """What a repo is and which files a revision of it has."""
    head = repo.commit_at(rev)
    blobs = request.flag("blobs")
    card = {} if "README.md" not in head.files else front_matter(repo.read("README.md", head.sha))
    return Response.json(
        {
            "_id": git_oid(repo.prefix.encode())[:24],
            "id": repo.name,
            "author": repo.owner,
            "sha": head.sha,
            "lastModified": head.date,
            "createdAt": repo.state.created,
            "private": repo.state.private,
            "gated": repo.state.gated or False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": card.get("tags") or [],
            "cardData": card,
            "usedStorage": sum({f.sha256: f.size for f in head.files.values()}.values()),
            "siblings": [_sibling(path, file, blobs) for path, file in head.files.items()],
        }
    )


def _sibling(path: str, file: File, blobs: bool) -> dict[str, Any]:
    return {"rfilename": path, **({"size": file.size, "blobId": file.oid, **_lfs(file)} if blobs else {})}


def _lfs(file: File) -> dict[str, Any]:
    pointer = {"oid": file.sha256, "sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return {"lfs": pointer} if file.lfs else {}


@route("POST", "/api/validate-yaml", need=None)
def validate_yaml(hub: Hub, request: Request) -> Response:
    """Whether a card's metadata can be read."""
    try:
        card = front_matter(str(request.json().get("content", "")).encode())
    except HubError as error:
        return Response.json({"errors": [{"message": error.message}], "warnings": []}, 400)
    warnings = [] if card else [{"message": "empty or missing yaml metadata in repo card"}]
    return Response.json({"errors": [], "warnings": warnings})


def front_matter(content: bytes) -> dict[str, Any]:
    """The metadata of a card, which must be a mapping; its configs, where given, a list of named ones."""
    text = content.decode("utf-8", "replace").replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return {}
    try:
        card = yaml.safe_load(text[4:].partition("\n---")[0]) or {}
    except yaml.YAMLError as error:
        raise HubError(400, f"Invalid YAML in README.md: {' '.join(str(error).split())}") from None
    if not isinstance(card, dict):
        raise HubError(400, "Invalid metadata in README.md: not a mapping")
    configs = card.get("configs", [])
    if not (isinstance(configs, list) and all(isinstance(config, dict) for config in configs)):
        raise HubError(400, 'Invalid metadata in README.md: "configs" must be a list of mappings')
    names = [config.get("config_name", "default") for config in configs]
    if len(set(names)) != len(names):
        raise HubError(400, f'Invalid metadata in README.md: "configs" has names that repeat: {names}')
    return card


# -- what a revision holds ------------------------------------------------------------------------------


@route("GET", f"{API}/tree/{REV}(?:/(?P<path>.*))?")
def tree(hub: Hub, request: Request, repo: Repo, rev: str, path: str) -> Response:
    """The files and folders below a path, in pages."""
    head = repo.commit_at(rev)
    top = f"{path.strip('/')}/" if path.strip("/") else ""
    below = [p for p in [*head.files, *folders_of(head.files)] if p.startswith(top)]
    if not request.flag("recursive"):
        below = [p for p in below if "/" not in p.removeprefix(top)]
    if not below and top:
        raise entry_not_found(path, head.sha)
    page, headers = _page(hub, request, sorted(below))
    return Response.json(_entries(repo, head, page, request.flag("expand")), headers=headers)


@route("POST", f"{API}/paths-info/{REV}")
def paths_info(hub: Hub, request: Request, repo: Repo, rev: str) -> Response:
    """The named files and folders of a revision; what is not there is left out."""
    if "json" in request.headers.get("Content-Type", ""):
        asked = request.json()
        paths, expand = list(asked.get("paths", [])), bool(asked.get("expand"))
    else:
        form = parse_qs(request.read().decode())
        paths, expand = form.get("paths", []), form.get("expand", ["false"])[0].lower() == "true"
    if len(paths) > 1000:
        raise HubError(413, "too many parameters")
    head = repo.commit_at(rev)
    known = head.files.keys() | folders_of(head.files)
    found = [p for p in (path.strip("/") for path in paths) if p in known]
    return Response.json(_entries(repo, head, found, expand))


def _entries(repo: Repo, head: Commit, paths: list[str], expand: bool) -> list[dict[str, Any]]:
    changes = repo.last_changes(head.sha) if expand else {}
    entries = []
    for path in paths:
        file = head.files.get(path)
        if file is None:
            inside = sorted(p for p in head.files if p.startswith(f"{path}/"))
            oid = git_oid("".join(f"{p} {head.files[p].oid}\n" for p in inside).encode())
            entry: dict[str, Any] = {"type": "directory", "oid": oid, "size": 0, "path": path}
            last = max((changes[p] for p in inside), key=lambda c: c.date) if expand else head
        else:
            entry = {"type": "file", "oid": file.oid, "size": file.size, "path": path, **_lfs(file)}
            last = changes[path] if expand else head
        if expand:
            entry["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
        entries.append(entry)
    return entries


@route("GET", f"{API}/commits/{REV}")
def commits(hub: Hub, request: Request, repo: Repo, rev: str) -> Response:
    """The history of a revision, newest first, in pages."""
    page, headers = _page(hub, request, list(repo.history(rev)))
    return Response.json(
        [
            {
                "id": c.sha,
                "title": c.title,
                "message": c.message,
                "authors": [{"user": c.author}],
                "date": c.date,
            }
            for c in page
        ],
        headers=headers,
    )


def _page(hub: Hub, request: Request, items: list[T]) -> tuple[list[T], dict[str, str]]:
    start = int(request.query.get("cursor", ["0"])[0])
    stop = start + hub.page_size
    if stop >= len(items):
        return items[start:stop], {}
    query = urlencode({**{k: v[0] for k, v in request.query.items()}, "cursor": stop})
    return items[start:stop], {"Link": f'<{hub.endpoint}{request.raw_path}?{query}>; rel="next"'}


# -- refs -----------------------------------------------------------------------------------------------


@route("GET", f"{API}/refs")
def refs(hub: Hub, request: Request, repo: Repo) -> Response:
    """Branches, tags and, if asked, pull requests."""
    pulls = {name: sha for name, sha in repo.state.branches.items() if name.startswith("refs/pr/")}
    heads = {f"refs/heads/{n}": sha for n, sha in repo.state.branches.items() if n not in pulls}
    tags = {f"refs/tags/{name}": sha for name, sha in repo.state.tags.items()}
    answer = {"branches": _refs(heads), "tags": _refs(tags), "converts": []}
    if "include_prs" in request.query:
        answer["pullRequests"] = _refs(pulls)
    return Response.json(answer)


def _refs(found: dict[str, str]) -> list[dict[str, str]]:
    return [
        {"name": ref.split("/", 2)[2], "ref": ref, "targetCommit": sha} for ref, sha in sorted(found.items())
    ]


@route("POST", f"{API}/branch/(?P<branch>[^/]+)", need="write")
def create_branch(hub: Hub, request: Request, repo: Repo, branch: str) -> Response:
    """A branch at a revision, ``main`` unless named."""
    repo.set_ref("branches", branch, repo.commit_at(request.json().get("startingPoint") or "main").sha)
    return Response.json({"name": branch})


@route("DELETE", f"{API}/branch/(?P<branch>[^/]+)", need="write")
def delete_branch(hub: Hub, request: Request, repo: Repo, branch: str) -> Response:
    """Remove a branch."""
    repo.delete_ref("branches", branch)
    return Response.json({"name": branch})


@route("POST", f"{API}/tag/{REV}", need="write")
def create_tag(hub: Hub, request: Request, repo: Repo, rev: str) -> Response:
    """A tag on a revision."""
    tag = str(request.json()["tag"])
    repo.set_ref("tags", tag, repo.commit_at(rev).sha)
    return Response.json({"name": tag})


@route("DELETE", f"{API}/tag/(?P<tag>[^/]+)", need="write")
def delete_tag(hub: Hub, request: Request, repo: Repo, tag: str) -> Response:
    """Remove a tag."""
    repo.delete_ref("tags", tag)
    return Response.json({"name": tag})


# -- pull requests --------------------------------------------------------------------------------------


@route("POST", f"{API}/discussions", need="propose")
def open_discussion(hub: Hub, request: Request, repo: Repo) -> Response:
    """A draft pull request, with no commits yet."""
    asked = request.json()
    if not asked.get("pullRequest"):
        raise HubError(400, "This Hub has pull requests, no other discussions")
    pull = repo.open_pull("main", str(asked["title"]), request.entry.user or "", "draft")
    return Response.json({"num": pull.number})


@route("GET", f"{API}/discussions")
def discussions(hub: Hub, request: Request, repo: Repo) -> Response:
    """All pull requests."""
    pulls = [_discussion(repo, pull) for pull in repo.state.pulls.values()]
    return Response.json({"discussions": pulls, "count": len(pulls), "start": 0})


@route("GET", rf"{API}/discussions/(?P<number>\d+)")
def discussion(hub: Hub, request: Request, repo: Repo, number: str) -> Response:
    """One pull request."""
    return Response.json(_discussion(repo, repo.pull(int(number))))


@route("POST", rf"{API}/discussions/(?P<number>\d+)/merge", need="write")
def merge(hub: Hub, request: Request, repo: Repo, number: str) -> Response:
    """Land a pull request."""
    repo.merge(int(number), request.entry.user or "")
    return Response.json({"merged": True})


@route("POST", rf"{API}/discussions/(?P<number>\d+)/status", need="write")
def set_status(hub: Hub, request: Request, repo: Repo, number: str) -> Response:
    """Close or reopen a pull request."""
    pull = replace(repo.pull(int(number)), status=str(request.json()["status"]))
    repo.set_pull(pull)
    event = {"id": "0", "type": "status-change", "createdAt": pull.created, "author": {"name": pull.author}}
    return Response.json({"newStatus": {**event, "data": {"status": pull.status}}})


def _discussion(repo: Repo, pull: Pull) -> dict[str, Any]:
    return {
        "num": pull.number,
        "title": pull.title,
        "author": {"name": pull.author},
        "createdAt": pull.created,
        "status": pull.status,
        "repo": {"name": repo.name, "type": repo.kind},
        "isPullRequest": True,
        "events": [],
        "filesWithConflicts": [],
        "changes": {"base": f"refs/heads/{pull.base}", "mergeCommitId": pull.merged_as},
    }
