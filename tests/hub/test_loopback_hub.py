"""The loopback Hub against the unmodified client: repos, accounts, commits, refs, pull requests."""

import hashlib
import threading
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.loopback import CARD, REPO, SHARD, UPLOAD_WARNING, add, commit, status
from tests.support.hub import Hub

pytestmark = [pytest.mark.hub, UPLOAD_WARNING]


# -- repos and accounts ---------------------------------------------------------------------------------


def test_create_repo_answers_like_the_hub(hub: Hub, api: HfApi) -> None:
    url = api.create_repo("whyitfailed/new", repo_type="dataset", private=True)
    assert (url.repo_id, url.repo_type) == ("whyitfailed/new", "dataset")
    assert api.create_repo("whyitfailed/new", repo_type="dataset", exist_ok=True) == url
    assert api.repo_info("whyitfailed/new", repo_type="dataset").private
    assert not api.repo_info(REPO, repo_type="dataset").private
    assert api.repo_info(api.create_repo("a-model").repo_id).id == "whyitfailed/a-model"
    with pytest.raises(HfHubHTTPError, match="You already created this dataset repo") as taken:
        api.create_repo("whyitfailed/new", repo_type="dataset")
    assert status(taken) == 409
    with pytest.raises(HfHubHTTPError, match="don't have the rights") as foreign:
        api.create_repo("allenai/new", repo_type="dataset")
    assert status(foreign) == 403
    api.delete_repo("whyitfailed/new", repo_type="dataset")
    assert not api.repo_exists("whyitfailed/new", repo_type="dataset")


def test_a_token_says_who_it_is(hub: Hub, api: HfApi) -> None:
    reader = api.whoami(hub.read_token)
    assert (reader["name"], reader["auth"]["accessToken"]["role"]) == ("whyitfailed", "read")
    assert api.whoami(hub.stranger_token)["name"] == "stranger"
    with pytest.raises(HfHubHTTPError, match="Invalid user token") as wrong:
        api.whoami("hf_wrong")
    assert status(wrong) == 401


@pytest.mark.parametrize(("who", "code"), [("read_token", 403), ("stranger_token", 403), ("none", 401)])
def test_no_write_access_is_refused_before_the_upload(hub: Hub, api: HfApi, who: str, code: int) -> None:
    hub.log.clear()
    token = False if who == "none" else getattr(hub, who)
    with pytest.raises(HfHubHTTPError):
        api.auth_check(REPO, repo_type="dataset", token=token, write=True)
    with pytest.raises(HfHubHTTPError) as refused:
        commit(api, {"a.bin": SHARD}, token=token)
    assert status(refused) == code
    assert hub.log.count("PUT") == 0
    assert list(hub.repo(REPO).state.branches) == ["main"]


def test_a_private_repo_looks_like_a_missing_one(hub: Hub) -> None:
    hub.seed(REPO, "dataset", {"a.txt": b"a"}, private=True)
    HfApi(endpoint=hub.endpoint, token=hub.read_token).repo_info(REPO, repo_type="dataset")
    for token in (hub.stranger_token, False):
        client = HfApi(endpoint=hub.endpoint, token=token)
        for name in (REPO, "whyitfailed/nothing"):
            with pytest.raises(RepositoryNotFoundError):
                client.repo_info(name, repo_type="dataset")


def test_a_gated_repo_shows_itself_but_not_its_files(hub: Hub, tmp_path: Path) -> None:
    hub.seed("google/gemma", "model", {"config.json": b"{}"}, gated="manual")
    for token in (hub.token, False):
        client = HfApi(endpoint=hub.endpoint, token=token)
        assert client.model_info("google/gemma").gated == "manual"
        with pytest.raises(GatedRepoError):
            client.hf_hub_download("google/gemma", "config.json", cache_dir=tmp_path)
    repo = hub.repo("google/gemma", "model")
    repo.update(granted=("whyitfailed",))
    client = HfApi(endpoint=hub.endpoint, token=hub.token)
    assert (
        Path(client.hf_hub_download("google/gemma", "config.json", cache_dir=tmp_path)).read_bytes() == b"{}"
    )


# -- commits --------------------------------------------------------------------------------------------


def test_a_push_uploads_by_content_and_shows_nothing_before_the_commit(hub: Hub, api: HfApi) -> None:
    before = api.repo_info(REPO, repo_type="dataset").sha
    operations = [add("README.md", CARD), add("data/a.parquet", SHARD), add("acts.zarr/c/0/0", SHARD[:5000])]
    api.preupload_lfs_files(REPO, operations, repo_type="dataset")
    assert api.list_repo_files(REPO, repo_type="dataset") == [".gitattributes"]
    assert hub.log.received("PUT /cdn/") == len(SHARD) + 5000
    info = api.create_commit(
        REPO, operations, repo_type="dataset", commit_message="Add", parent_commit=before, num_threads=1
    )
    assert hub.log.received("PUT /cdn/") == len(SHARD) + 5000
    files = api.get_paths_info(REPO, ["data/a.parquet", "README.md", "nothing"], repo_type="dataset")
    card, shard = sorted(files, key=lambda file: file.path)
    assert (shard.lfs.sha256, shard.size) == (hashlib.sha256(SHARD).hexdigest(), len(SHARD))
    assert (card.lfs, card.blob_id) == (None, hashlib.sha1(b"blob %d\0" % len(CARD) + CARD).hexdigest())
    assert hub.repo(REPO).read("data/a.parquet") == SHARD
    assert api.repo_info(REPO, repo_type="dataset").sha == info.oid

    hub.log.clear()
    again = [add("README.md", CARD), add("data/a.parquet", SHARD), add("acts.zarr/c/0/0", SHARD[:5000])]
    same = api.create_commit(REPO, again, repo_type="dataset", commit_message="Add", parent_commit=info.oid)
    assert same.oid == info.oid
    assert hub.log.count("PUT") == hub.log.count("POST .*/commit/") == 0


def test_a_stale_parent_is_refused(hub: Hub, api: HfApi) -> None:
    parent = api.repo_info(REPO, repo_type="dataset").sha
    first = commit(api, {"a.bin": SHARD}, parent_commit=parent)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as stale:
        commit(api, {"b.bin": SHARD}, parent_commit=parent)
    assert status(stale) == 412
    assert api.repo_info(REPO, repo_type="dataset").sha == first


def test_of_two_commits_at_once_on_one_parent_one_lands(hub: Hub, api: HfApi) -> None:
    parent = api.repo_info(REPO, repo_type="dataset").sha
    results: list[object] = []

    def push(name: str) -> None:
        try:
            results.append(commit(api, {name: SHARD}, parent_commit=parent))
        except HfHubHTTPError as error:
            results.append(error.response.status_code)

    threads = [threading.Thread(target=push, args=(f"{n}.bin",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(412) == 3
    assert len(list(hub.repo(REPO).history())) == 2


def test_a_reader_of_main_sees_one_commit_or_the_other(hub: Hub, api: HfApi) -> None:
    commit(api, {"a.txt": b"0", "b.txt": b"0"})
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            pair = api.get_paths_info(REPO, ["a.txt", "b.txt"], repo_type="dataset")
            seen.add(tuple(file.blob_id for file in pair))

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(1, 15):
        commit(api, {"a.txt": b"%d" % n, "b.txt": b"%d" % n})
    done.set()
    reader.join()
    assert len(seen) > 1
    assert all(a == b for a, b in seen)


def test_an_upload_that_is_not_what_it_was_announced_as_is_refused(hub: Hub, api: HfApi) -> None:
    operation = add("a.bin", SHARD)
    operation.upload_info.sha256 = hashlib.sha256(b"something else").digest()
    with pytest.raises(RuntimeError, match=r"Error while uploading 'a.bin'") as refused:
        api.preupload_lfs_files(REPO, [operation], repo_type="dataset")
    assert isinstance(refused.value.__cause__, BadRequestError)
    assert "Content does not match" in str(refused.value.__cause__)


def test_a_commit_that_names_an_object_nobody_sent_is_refused(hub: Hub, api: HfApi) -> None:
    operation = add("a.bin", SHARD)
    operation._upload_mode, operation._is_uploaded = "lfs", True
    with pytest.raises(HfHubHTTPError, match="was never uploaded"):
        api.create_commit(REPO, [operation], repo_type="dataset", commit_message="Add")


def test_large_uploads_go_in_parts(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    hub.part_size = 30_000
    (tmp_path / "a.bin").write_bytes(SHARD)
    api.upload_file(
        path_or_fileobj=tmp_path / "a.bin", path_in_repo="a.bin", repo_id=REPO, repo_type="dataset"
    )
    assert [entry.received for entry in hub.log.select("PUT")] == [30_000, 30_000, 30_000, 12_400]
    assert hub.repo(REPO).read("a.bin") == SHARD


def test_upload_folder_delete_and_copy(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_bytes(CARD)
    for name in ("a", "b"):
        (tmp_path / "data" / f"{name}.bin").write_bytes(SHARD)
    api.upload_folder(repo_id=REPO, folder_path=tmp_path, repo_type="dataset", delete_patterns="*.old")
    assert hub.log.count("PUT") == 2, "the client sends equal content twice within one batch"
    operations = [
        CommitOperationCopy("data/a.bin", "copy/a.bin"),
        CommitOperationCopy("README.md", "copy/README.md"),
        CommitOperationDelete("data/b.bin"),
    ]
    api.create_commit(REPO, operations, repo_type="dataset", commit_message="Move")
    assert hub.log.count("PUT") == 2, "and never again"
    files = api.list_repo_files(REPO, repo_type="dataset")
    assert files == [".gitattributes", "README.md", "copy/README.md", "copy/a.bin", "data/a.bin"]
    api.delete_folder("copy", repo_id=REPO, repo_type="dataset")
    with pytest.raises(EntryNotFoundError):
        api.delete_file("data/b.bin", repo_id=REPO, repo_type="dataset")
    assert api.list_repo_files(REPO, repo_type="dataset") == [".gitattributes", "README.md", "data/a.bin"]


@pytest.mark.parametrize(
    "card", [b"---\nconfigs: [\n---\n", b"---\nconfigs: {a: 1}\n---\n", b"---\n- a\n---\n"]
)
def test_a_card_whose_metadata_cannot_be_read_is_refused(hub: Hub, api: HfApi, card: bytes) -> None:
    with pytest.raises(ValueError, match=r"Invalid (metadata|YAML) in README\.md"):
        commit(api, {"README.md": b"---\n" + card + b"\n---\n"})
    assert len(list(hub.repo(REPO).history())) == 1


# -- refs and pull requests -----------------------------------------------------------------------------


def test_branches_and_tags(hub: Hub, api: HfApi) -> None:
    first = commit(api, {"a.bin": SHARD})
    api.create_tag(REPO, tag="v1", repo_type="dataset")
    api.create_branch(REPO, branch="exp/next", repo_type="dataset")
    second = commit(api, {"b.bin": SHARD}, revision="exp/next")
    refs = api.list_repo_refs(REPO, repo_type="dataset")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first, "exp/next": second}
    assert [(ref.ref, ref.target_commit) for ref in refs.tags] == [("refs/tags/v1", first)]
    titles = [c.title for c in api.list_repo_commits(REPO, revision="exp/next", repo_type="dataset")]
    assert titles == ["Add", "Add", "initial commit"]
    for revision in ("main", "v1", first, first[:10]):
        assert api.repo_info(REPO, revision=revision, repo_type="dataset").sha == first
    for again in (api.create_tag, api.create_branch):
        name = {"tag": "v1"} if again == api.create_tag else {"branch": "exp/next"}
        again(REPO, **name, repo_type="dataset", exist_ok=True)
        with pytest.raises(HfHubHTTPError) as taken:
            again(REPO, **name, repo_type="dataset")
        assert status(taken) == 409
    api.delete_tag(REPO, tag="v1", repo_type="dataset")
    api.delete_branch(REPO, branch="exp/next", repo_type="dataset")
    for revision in ("v1", "exp/next", "refs/convert/parquet", "0" * 40):
        with pytest.raises(RevisionNotFoundError):
            api.repo_info(REPO, revision=revision, repo_type="dataset")
    with pytest.raises(RevisionNotFoundError):
        commit(api, {"c.bin": SHARD}, revision="exp/next")


def test_a_pull_request_stands_beside_main_until_it_is_merged(hub: Hub, api: HfApi) -> None:
    base = commit(api, {"a.bin": SHARD})
    info = api.create_commit(
        REPO, [add("b.bin", SHARD[1:])], repo_type="dataset", commit_message="More", create_pr=True,
        parent_commit=base,
    )  # fmt: skip
    assert (info.pr_num, info.pr_revision) == (1, "refs/pr/1")
    more = commit(api, {"c.bin": SHARD[2:]}, revision="refs/pr/1")
    assert api.repo_info(REPO, repo_type="dataset").sha == base
    assert api.repo_info(REPO, revision="refs/pr/1", repo_type="dataset").sha == more
    pulls = api.list_repo_refs(REPO, repo_type="dataset", include_pull_requests=True).pull_requests
    assert [(ref.ref, ref.target_commit) for ref in pulls] == [("refs/pr/1", more)]
    api.merge_pull_request(REPO, 1, repo_type="dataset")
    details = api.get_discussion_details(REPO, 1, repo_type="dataset")
    assert details.status == "merged"
    assert details.merge_commit_oid == api.repo_info(REPO, repo_type="dataset").sha
    assert api.list_repo_files(REPO, repo_type="dataset") == [".gitattributes", "a.bin", "b.bin", "c.bin"]


def test_anyone_may_propose_and_a_conflict_does_not_merge(hub: Hub, api: HfApi) -> None:
    draft = api.create_pull_request(REPO, "Change", repo_type="dataset", token=hub.stranger_token)
    assert (draft.num, draft.status, draft.target_branch) == (1, "draft", "refs/heads/main")
    info = api.create_commit(
        REPO, [add("a.bin", SHARD)], repo_type="dataset", commit_message="Mine", create_pr=True,
        token=hub.stranger_token,
    )  # fmt: skip
    with pytest.raises(HfHubHTTPError) as refused:
        api.merge_pull_request(REPO, info.pr_num, repo_type="dataset", token=hub.stranger_token)
    assert status(refused) == 403
    commit(api, {"a.bin": SHARD[1:]})
    with pytest.raises(HfHubHTTPError, match=r"Merge conflict in a\.bin"):
        api.merge_pull_request(REPO, info.pr_num, repo_type="dataset")
    assert hub.repo(REPO).read("a.bin") == SHARD[1:]
    listed = api.get_repo_discussions(REPO, repo_type="dataset")
    assert [(d.num, d.author) for d in listed] == [(1, "stranger"), (2, "stranger")]
