"""Content on its way in and out: preupload, LFS, commits, downloads.

Large files take the detour they take on the real Hub: the API hands out addresses on another host (the
"cdn" listener) that carry a ticket and need no token. A download is a redirect there.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.support.hub.api import front_matter
from tests.support.hub.errors import HubError
from tests.support.hub.records import File
from tests.support.hub.repos import MAX_REGULAR_BYTES
from tests.support.hub.router import API, FILES, NAME, REV, require_write, route
from tests.support.hub.wire import Request, Response, serve_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.hub.repos import Repo
    from tests.support.hub.server import Hub

PARTS = rf"/api/complete_multipart/(?P<kind>model|dataset)s/(?P<repo>{NAME})"
CDN = rf"/cdn/(?P<kind>model|dataset)s/(?P<repo>{NAME})"


@dataclass
class Ticket:
    """Leave to send or fetch one object, as a signed address gives it."""

    sha256: str
    size: int
    parts: dict[int, Path] = field(default_factory=dict)


# -- up -------------------------------------------------------------------------------------------------


@route("POST", f"{API}/preupload/{REV}", need="propose")
def preupload(hub: Hub, request: Request, repo: Repo, rev: str) -> Response:
    """For each file: by which way it is to come, and the hash of what stands there now."""
    if not request.flag("create_pr"):
        require_write(request.account, repo)
    head = repo.commit_at(rev)
    answer = []
    for file in request.json().get("files", []):
        sample = base64.b64decode(file.get("sample", ""))
        large = repo.is_large(file["path"], int(file["size"]), sample)
        here = head.files.get(file["path"])
        plan = {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        answer.append({"path": file["path"], "oid": here.etag if here else None, **plan})
    return Response.json({"files": answer, "commitOid": head.sha})


@route("POST", rf"{FILES}\.git/info/lfs/objects/batch", need="propose")
def lfs_batch(hub: Hub, request: Request, repo: Repo) -> Response:
    """Where to send each object; nothing to do for those that are here."""
    asked = request.json()
    multipart = "multipart" in asked.get("transfers", [])
    objects = [_upload_plan(hub, repo, str(o["oid"]), int(o["size"]), multipart) for o in asked["objects"]]
    chunked = any("chunk_size" in o.get("actions", {}).get("upload", {}).get("header", {}) for o in objects)
    return Response.json({"transfer": "multipart" if chunked else "basic", "objects": objects})


def _upload_plan(hub: Hub, repo: Repo, sha256: str, size: int, multipart: bool) -> dict[str, Any]:
    plan: dict[str, Any] = {"oid": sha256, "size": size, "authenticated": True}
    if repo.blob(sha256).exists():
        return plan
    ticket = hub.issue(Ticket(sha256, size))
    href = f"{hub.cdn}/cdn/{repo.prefix}/upload/{sha256}?ticket={ticket}"
    upload: dict[str, Any] = {"href": href}
    if multipart and size > hub.part_size:
        count = -(-size // hub.part_size)
        parts = {f"{n:05d}": f"{href}&part={n}" for n in range(1, count + 1)}
        done = f"{hub.endpoint}/api/complete_multipart/{repo.prefix}/{sha256}?ticket={ticket}"
        upload = {"href": done, "header": {"chunk_size": str(hub.part_size), **parts}}
    page = repo.prefix.removeprefix("models/")
    verify = {"href": f"{hub.endpoint}/{page}.git/info/lfs/objects/verify"}
    return {**plan, "actions": {"upload": upload, "verify": verify}}


@route("PUT", f"{CDN}/upload/(?P<sha256>[0-9a-f]{{64}})", need="ticket")
def lfs_put(hub: Hub, request: Request, repo: Repo, sha256: str) -> Response:
    """An object, or one part of it."""
    ticket = hub.redeem(request, sha256)
    if "part" not in request.query:
        repo.add_blob(request.body, sha256, ticket.size)
        return Response(headers={"ETag": f'"{sha256}"'})
    ticket.parts[int(request.query["part"][0])], digest, _ = repo.spool(request.body)
    return Response(headers={"ETag": f'"{digest}"'})


@route(
    "POST",
    f"{PARTS}/(?P<sha256>[^/]+)",
    need="ticket",
)
def lfs_complete(hub: Hub, request: Request, repo: Repo, sha256: str) -> Response:
    """All parts are there: put them together and check the file."""
    ticket = hub.redeem(request, sha256)
    named = [int(part["partNumber"]) for part in request.json().get("parts", [])]
    if named != sorted(ticket.parts):
        raise HubError(400, f"Parts {named} named, {sorted(ticket.parts)} received")
    parts = [ticket.parts.pop(number) for number in named]
    try:
        repo.add_blob(_joined(parts), sha256, ticket.size)
    finally:
        for part in parts:
            part.unlink()
    return Response.json({"success": True})


def _joined(parts: list[Path]) -> Iterator[bytes]:
    for part in parts:
        with part.open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk


@route("POST", rf"{FILES}\.git/info/lfs/objects/verify", need="propose")
def lfs_verify(hub: Hub, request: Request, repo: Repo) -> Response:
    """Whether an object arrived as announced."""
    asked = request.json()
    _stored(repo, str(asked["oid"]), int(asked["size"]))
    return Response.json({"success": True})


def _stored(repo: Repo, sha256: str, size: int | None) -> File:
    blob = repo.blob(sha256)
    if not blob.exists():
        raise HubError(404, f"LFS object {sha256} was never uploaded")
    found = blob.stat().st_size
    if size is not None and found != size:
        raise HubError(400, f"LFS object {sha256} has {found} bytes, not {size}")
    return File.large(sha256, found)


@route("POST", f"{API}/commit/{REV}", need="propose")
def commit(hub: Hub, request: Request, repo: Repo, rev: str) -> Response:
    """Many changes at once, as NDJSON: a header, then one operation a line."""
    create_pr = request.flag("create_pr")
    if not create_pr:
        require_write(request.account, repo)
    author = request.entry.user or ""
    lines = [json.loads(line) for line in request.read().splitlines() if line.strip()]
    if not lines or lines[0].get("key") != "header":
        raise HubError(400, "The first line of a commit must be its header")
    header = lines[0]["value"]
    with repo.lock:
        changes = _changes(repo, rev, lines[1:])
        pull = None
        branch = rev.removeprefix("refs/heads/")
        if create_pr:
            repo.head(branch, header.get("parentCommit"))
            pull = repo.open_pull(branch, header["summary"], author, "open")
            branch = f"refs/pr/{pull.number}"
        new = repo.commit(
            branch,
            changes,
            title=header["summary"],
            message=header.get("description", ""),
            author=author,
            parent=None if create_pr else header.get("parentCommit"),
        )
    page = f"{hub.endpoint}/{repo.prefix.removeprefix('models/')}"
    answer = {"success": True, "commitOid": new.sha, "commitUrl": f"{page}/commit/{new.sha}"}
    if pull:
        answer["pullRequestUrl"] = f"{page}/discussions/{pull.number}"
    return Response.json(answer)


def _changes(repo: Repo, rev: str, lines: list[dict[str, Any]]) -> dict[str, File | None]:
    head = repo.commit_at(rev)
    changes: dict[str, File | None] = {}
    for line in lines:
        key, value = line["key"], line["value"]
        path = value["path"].rstrip("/")
        if key == "file":
            changes[path] = _regular(repo, path, value)
        elif key == "lfsFile":
            changes[path] = _stored(repo, value["oid"], value.get("size"))
        elif key == "deletedFile":
            if path not in head.files:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            changes[path] = None
        elif key == "deletedFolder":
            inside = [p for p in head.files if p.startswith(f"{path}/")]
            if not inside:
                raise HubError(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
            changes.update(dict.fromkeys(inside))
        else:
            raise HubError(400, f"Unknown operation: {key}")
    return changes


def _regular(repo: Repo, path: str, value: dict[str, Any]) -> File:
    try:
        content = base64.b64decode(value["content"], validate=True)
    except binascii.Error:
        raise HubError(400, f"{path}: not base64") from None
    if len(content) > MAX_REGULAR_BYTES:
        raise HubError(400, f"{path}: {len(content)} bytes; files of more than 10 MB must use LFS")
    if path == "README.md":
        front_matter(content)
    repo.add_blob([content])
    return File.regular(content)


# -- down -----------------------------------------------------------------------------------------------


@route("GET", f"{FILES}/(?:resolve|raw)/{REV}/(?P<path>.+)", need="contents")
def resolve(hub: Hub, request: Request, repo: Repo, rev: str, path: str) -> Response:
    """A file of a revision: regular ones from here, large ones by a redirect to the CDN."""
    head, file = repo.file_at(rev, path)
    headers = {"X-Repo-Commit": head.sha, "ETag": f'"{file.etag}"'}
    if not file.lfs:
        return serve_file(request, repo.blob(file.sha256), headers)
    ticket = hub.issue(Ticket(file.sha256, file.size))
    where = f"{hub.cdn}/cdn/{repo.prefix}/{file.sha256}/{quote(path)}?ticket={ticket}"
    linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size), "Location": where}
    return Response(status=302, headers={**headers, **linked})


@route("GET", f"{CDN}/(?P<sha256>[0-9a-f]{{64}})/(?P<path>.+)", need="ticket")
def cdn_get(hub: Hub, request: Request, repo: Repo, sha256: str, path: str) -> Response:
    """The content of a large file, all of it or a range."""
    hub.redeem(request, sha256)
    return serve_file(request, repo.blob(sha256), {"ETag": f'"{sha256}"'})
