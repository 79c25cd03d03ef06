"""The loopback Hub against the unmodified client: trees, downloads, ranges."""

import hashlib
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.loopback import CARD, REPO, SHARD, UPLOAD_WARNING, commit
from tests.support.hub import Hub

pytestmark = [pytest.mark.hub, UPLOAD_WARNING]


# -- reading --------------------------------------------------------------------------------------------


def test_trees_in_pages_with_who_changed_what(hub: Hub, api: HfApi) -> None:
    first = commit(api, {"a.bin": SHARD, "z/deep/b.txt": b"b"})
    second = commit(api, {"z/c.txt": b"c"})
    hub.page_size = 2
    tree = list(api.list_repo_tree(REPO, recursive=True, expand=True, repo_type="dataset"))
    changed = {entry.path: entry.last_commit.oid for entry in tree}
    assert changed.pop(".gitattributes") not in (first, second)
    assert changed == {"a.bin": first, "z": second, "z/c.txt": second, "z/deep": first, "z/deep/b.txt": first}
    top = [e.path for e in api.list_repo_tree(REPO, repo_type="dataset", revision=first)]
    assert top == [".gitattributes", "a.bin", "z"]
    below = [e.path for e in api.list_repo_tree(REPO, "z", repo_type="dataset")]
    assert below == ["z/c.txt", "z/deep"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "y", repo_type="dataset"))
    assert len(api.list_repo_commits(REPO, repo_type="dataset")) == 3


def test_downloads_are_redirected_verified_and_cached(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    sha = commit(api, {"README.md": CARD, "data/a b.bin": SHARD})
    hub.log.clear()
    for _ in range(2):
        folder = Path(api.snapshot_download(REPO, repo_type="dataset", cache_dir=tmp_path / "cache"))
    assert folder.name == sha
    assert (folder / "README.md").read_bytes() == CARD
    assert (folder / "data" / "a b.bin").read_bytes() == SHARD
    assert (folder / "data" / "a b.bin").resolve().name == hashlib.sha256(SHARD).hexdigest()
    assert hub.log.sent(r"GET /cdn/.*/data/a b\.bin$") == len(SHARD)
    for path, revision, error in (("no.bin", "main", EntryNotFoundError), ("a", "v9", RevisionNotFoundError)):
        with pytest.raises(error):
            api.hf_hub_download(REPO, path, revision=revision, repo_type="dataset", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        (None, 200, SHARD),
        ("bytes=10-19", 206, SHARD[10:20]),
        ("bytes=102390-", 206, SHARD[-10:]),
        ("bytes=-10", 206, SHARD[-10:]),
        ("bytes=102390-999999", 206, SHARD[-10:]),
        ("bytes=102400-", 416, None),
        ("bytes=20-10", 416, None),
    ],
)
@pytest.mark.parametrize("name", ["large.bin", "small.txt"])
def test_ranges(hub: Hub, asked: str | None, status: int, content: bytes | None, name: str) -> None:
    data = SHARD if name == "large.bin" else b"x" * len(SHARD)
    hub.seed(REPO, "dataset", {name: data})
    url = f"{hub.endpoint}/datasets/{REPO}/resolve/main/{name}"
    answer = httpx2.get(url, headers={"Range": asked} if asked else {}, follow_redirects=True)
    assert answer.status_code == status
    if content is None:
        assert answer.headers["Content-Range"] == f"bytes */{len(SHARD)}"
        return
    assert answer.content == (content if name == "large.bin" else b"x" * len(content))
    assert hub.log.sent(f"GET .*{name}") == len(content)
    if status == 206:
        start = len(SHARD) - 10 if len(content) == 10 and asked != "bytes=10-19" else 10
        assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(content) - 1}/{len(SHARD)}"


def test_head_tells_what_the_cache_needs(hub: Hub) -> None:
    sha = hub.seed(REPO, "dataset", {"a.bin": SHARD, "b.txt": b"b"}).sha
    large, small = (
        httpx2.head(f"{hub.endpoint}/datasets/{REPO}/resolve/main/{name}") for name in ("a.bin", "b.txt")
    )
    assert (large.status_code, large.headers["X-Linked-Size"]) == (302, str(len(SHARD)))
    assert large.headers["X-Linked-Etag"] == f'"{hashlib.sha256(SHARD).hexdigest()}"'
    assert large.headers["Location"].startswith(hub.cdn)
    assert (small.status_code, small.headers["Content-Length"]) == (200, "1")
    assert large.headers["X-Repo-Commit"] == small.headers["X-Repo-Commit"] == sha
    assert httpx2.get(large.headers["Location"].split("?")[0]).status_code == 403, "no ticket, no file"


def test_a_hub_finds_its_repos_again(hub: Hub, api: HfApi) -> None:
    sha = commit(api, {"a.bin": SHARD})
    api.create_tag(REPO, tag="v1", repo_type="dataset")
    api.create_pull_request(REPO, "Change", repo_type="dataset")
    with Hub(hub.root) as again:
        client = HfApi(endpoint=again.endpoint, token=again.token)
        assert client.repo_info(REPO, revision="v1", repo_type="dataset").sha == sha
        assert client.get_discussion_details(REPO, 1, repo_type="dataset").title == "Change"
        assert again.repo(REPO).read("a.bin") == SHARD
