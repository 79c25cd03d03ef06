"""Push: what becomes visible, when, and what happens when the Hub or somebody else gets in the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from tests.hub.loopback import UPLOAD_WARNING
from tests.hub.publishing import REPO, contents, dataset, push, tree
from tests.support.stores import ROWS, make_store
from wif_store.errors import PublishError, StoreError
from wif_store.hub.pull import Pull
from wif_store.hub.push import Progress, Target, plan_push, push_stores
from wif_store.hub.push_run import Push
from wif_store.hub.repo import RemoteFile, quiet_client
from wif_store.hub.staging import stage, view_path
from wif_store.store.reader import open_store
from wif_store.tasks import TASKS

if TYPE_CHECKING:
    from tests.support.hub import Hub

pytestmark = [pytest.mark.hub, UPLOAD_WARNING]

Made = Callable[[str], Path]


def test_one_commit_makes_everything_visible(hub: Hub, made: Made) -> None:
    pushed = push(hub, made("winogrande"), made("boolq"), target=Target(tag="v1"))
    repo = hub.repo(REPO)
    first, last = list(repo.history("main"))[::-1]
    assert set(first.files) == {".gitattributes"}
    assert (pushed.commit, repo.state.tags) == (last.sha, {"v1": last.sha})
    assert pushed.uploaded > 0
    assert set(repo.state.branches) == {"main"}, "the staging branch is gone"
    for task in ("winogrande", "boolq"):
        manifest = json.loads(repo.read(f"zarr/{task}.zarr/manifest.json"))
        for name, entry in manifest["files"].items():
            assert last.files[f"zarr/{task}.zarr/{name}"].sha256 == entry["sha256"]
        assert sorted(p for p in last.files if p.startswith(f"data/{task}/")) == [
            f"data/{task}/{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")
        ]


def test_a_second_push_uploads_nothing(hub: Hub, made: Made) -> None:
    push(hub, made("winogrande"))
    before = contents(hub)
    hub.log.clear()
    assert push(hub, made("winogrande")).uploaded == 0
    assert hub.log.count("PUT|/commit/|/preupload/|/branch/") == 0
    assert contents(hub) == before


def test_tasks_pushed_one_after_another_add_up(hub: Hub, made: Made) -> None:
    push(hub, made("winogrande"), made("boolq"))
    together = contents(hub)
    hub.delete_repo(f"datasets/{REPO}")
    push(hub, made("winogrande"))
    push(hub, made("boolq"))
    assert contents(hub) == together, "the card too"
    hub.log.clear()
    push(hub, made("winogrande"))
    assert hub.log.count("PUT|/commit/") == 0


def test_a_task_that_changed_is_replaced_whole(hub: Hub, made: Made, tmp_path: Path) -> None:
    push(hub, made("winogrande"))
    old = hub.repo(REPO).commit_at("main").files
    other = make_store(tmp_path / "w.zarr", "winogrande", sequence_layers=0, per_class=8)
    push(hub, other)
    new = hub.repo(REPO).commit_at("main").files
    assert "zarr/winogrande.zarr/test/sequence/c/0/0/0" in old
    assert "zarr/winogrande.zarr/test/sequence/c/0/0/0" not in new
    hub.delete_repo(f"datasets/{REPO}")
    push(hub, other)
    assert contents(hub) == {path: file.sha256 for path, file in new.items()}


class Meddler(Progress):
    """Somebody else, who commits just before the push would."""

    def __init__(self, hub: Hub, times: int) -> None:
        self.hub, self.times, self.plans = hub, times, 0

    def planned(self, plan: object) -> None:
        self.plans += 1

    def phase(self, name: str) -> None:
        if name == "publishing" and self.times:
            self.times -= 1
            repo = self.hub.repo(REPO)
            changes = {f"notes-{self.times}.txt": repo.adopt("n.txt", b"mine")}
            repo.commit("main", changes, title="Mine", author="whyitfailed")


def test_a_commit_in_between_is_kept(hub: Hub, made: Made, impatient: list[float]) -> None:
    push(hub, made("winogrande"))
    meddler = Meddler(hub, 2)
    push(hub, made("boolq"), progress=meddler)
    files = hub.repo(REPO).commit_at("main").files
    assert {
        "notes-0.txt",
        "notes-1.txt",
        "zarr/boolq.zarr/zarr.json",
        "zarr/winogrande.zarr/zarr.json",
    } <= set(files)
    assert meddler.plans == 3


def test_endless_commits_in_between_end_the_push(hub: Hub, made: Made, impatient: list[float]) -> None:
    push(hub, made("winogrande"))
    with pytest.raises(PublishError, match="412"):
        push(hub, made("boolq"), progress=Meddler(hub, 100))
    assert "zarr/boolq.zarr/zarr.json" not in contents(hub)


class Twin(Progress):
    """Somebody else, or the rest of a killed push, who publishes files of this push before it does."""

    def __init__(self, hub: Hub, store: Path) -> None:
        self.hub, self.store, self.plans = hub, store, 0

    def planned(self, plan: object) -> None:
        self.plans += 1

    def phase(self, name: str) -> None:
        if name == "uploading" and self.plans == 1:
            push(self.hub, self.store)


@pytest.mark.parametrize("tasks", [("boolq",), ("boolq", "winogrande")])
def test_a_push_of_the_same_files_in_between(
    hub: Hub, made: Made, impatient: list[float], tasks: tuple[str, ...]
) -> None:
    """The client leaves out of a commit what it found on the target, so the staging branch lacks it."""
    twin = Twin(hub, made("boolq"))
    push(hub, *map(made, tasks), progress=twin)
    assert twin.plans == 2
    assert {f"zarr/{task}.zarr/zarr.json" for task in tasks} <= contents(hub).keys()
    assert set(hub.repo(REPO).state.branches) == {"main"}


FAULTS = {
    "commit 500": ("POST .*/commit/main", {"status": 500, "times": 2}),
    "commit 429": ("POST .*/commit/", {"status": 429, "retry_after": 9}),
    "commit carried out, answer lost": ("POST .*/commit/main", {"lose_response": True}),
    "commit reset": ("POST .*/commit/", {"reset_after": 100}),
    "list 502": ("GET .*/tree/", {"status": 502, "times": 3}),
    "create 503": ("POST /api/repos/create", {"status": 503}),
    "upload 500": ("PUT /cdn/", {"status": 500, "times": 2}),
    "upload reset": ("PUT /cdn/", {"reset_after": 100, "times": 2}),
    "branch 500": ("POST .*/branch/", {"status": 500}),
    "tag 500": ("POST .*/tag/", {"status": 500}),
    "whoami 500": ("/whoami", {"status": 500}),
}


@pytest.mark.parametrize(("match", "how"), FAULTS.values(), ids=FAULTS)
def test_a_failure_that_passes_is_waited_out(
    hub: Hub, made: Made, impatient: list[float], match: str, how: dict[str, int]
) -> None:
    fault = hub.fail(match, **how)
    push(hub, made("winogrande"), target=Target(tag="v1"))
    assert fault.hits == how.get("times", 1)
    if "retry_after" in how:
        assert max(impatient) >= how["retry_after"]
    repo = hub.repo(REPO)
    assert [c.title for c in repo.history("main")] == ["Publish winogrande", "initial commit"]
    assert set(repo.state.branches) == {"main"}
    assert repo.state.tags == {"v1": repo.commit_at("main").sha}


def test_a_failure_that_does_not_pass_leaves_main_alone(hub: Hub, made: Made, impatient: list[float]) -> None:
    push(hub, made("winogrande"))
    before = contents(hub)
    fault = hub.fail("POST .*/commit/", status=500, times=None)
    with pytest.raises(PublishError, match="the Hub answered 500"):
        push(hub, made("boolq"))
    assert contents(hub) == before
    fault.cancel()
    push(hub, made("boolq"))
    assert "zarr/boolq.zarr/zarr.json" in contents(hub)
    assert set(hub.repo(REPO).state.branches) == {"main"}


def test_what_arrived_damaged_is_not_published(hub: Hub, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = dataset(hub)
    listed = remote.files
    bad = "zarr/winogrande.zarr/test/sequence/c/0/0/0"

    def files(commit: str) -> dict[str, RemoteFile]:
        found = listed(commit)
        return found | ({bad: RemoteFile(found[bad].size, "0" * 64, "0" * 40)} if bad in found else {})

    monkeypatch.setattr(remote, "files", files)
    with pytest.raises(PublishError, match=f"{bad} arrived damaged .*nothing was published"):
        Push(remote, [stage(made("winogrande"))]).run()
    assert set(contents(hub)) == {".gitattributes"}


def test_a_file_that_changed_since_it_was_verified_is_not_published(hub: Hub, tmp_path: Path) -> None:
    staged = stage(make_store(tmp_path / "w.zarr"))
    with (tmp_path / "w.zarr" / "test" / "sequence" / "c" / "0" / "0" / "0").open("r+b") as file:
        file.write(b"\xff\xff")
    with pytest.raises(PublishError, match="has changed since it was verified"):
        Push(dataset(hub), [staged]).run()


def test_a_branch_and_a_pull_request_leave_main_alone(hub: Hub, made: Made) -> None:
    HfApi(endpoint=hub.endpoint, token=hub.token).create_repo(REPO, repo_type="dataset")
    before = contents(hub)
    pushed = push(hub, made("winogrande"), target=Target(create_pr=True))
    assert pushed.url.endswith("/discussions/1")
    assert contents(hub) == before
    push(hub, made("winogrande"), target=Target(revision="next"))
    assert contents(hub) == before
    assert contents(hub, "next") == contents(hub, "refs/pr/1")
    assert set(hub.repo(REPO).state.branches) == {"main", "next", "refs/pr/1"}
    hub.log.clear()
    push(hub, made("winogrande"))
    assert hub.log.count("PUT /cdn/") == 0, "the content is there already"
    assert contents(hub) == contents(hub, "next")


def test_a_stranger_may_open_a_pull_request(hub: Hub, made: Made) -> None:
    push(hub, made("boolq"))
    before = contents(hub)
    push(hub, made("winogrande"), target=Target(create_pr=True), token=hub.stranger_token)
    assert contents(hub) == before
    assert "zarr/winogrande.zarr/zarr.json" in contents(hub, "refs/pr/1")


def test_the_view_is_made_once_and_made_again_when_damaged(made: Made, tmp_path: Path) -> None:
    store = tmp_path / "w.zarr"
    shutil.copytree(made("winogrande"), store)
    written: list[int] = []
    first = stage(store, written.append)
    assert len(written) == 3
    assert stage(store, written.append).files == first.files
    assert len(written) == 3
    (view_path(store) / "test-00000-of-00001.parquet").write_bytes(b"")
    assert stage(store, written.append).files == first.files
    assert len(written) == 6


def test_two_pushes_do_not_write_one_view(made: Made, tmp_path: Path) -> None:
    store = tmp_path / "w.zarr"
    shutil.copytree(made("winogrande"), store)

    def again(size: int) -> None:
        with pytest.raises(PublishError, match="another push is exporting"):
            stage(store)

    assert stage(store, again).files


def test_from_python(hub: Hub, made: Made, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    plan = plan_push([made("winogrande")], api=api)
    assert (plan.head, plan.tasks, plan.deleted) == (None, ("winogrande",), ())
    assert not hub.repos
    pushed = push_stores([str(made("winogrande"))], api=api)
    assert (pushed.url, pushed.uploaded) == (f"{hub.endpoint}/datasets/{REPO}", plan.bytes)
    assert plan_push([made("winogrande")], REPO, api=api).changes == 0
    # Nothing is left of what keeps the client quiet.
    assert huggingface_hub.utils.are_progress_bars_disabled()
    huggingface_hub.utils.enable_progress_bars()
    with quiet_client():
        assert huggingface_hub.utils.are_progress_bars_disabled()
    assert not huggingface_hub.utils.are_progress_bars_disabled()
    huggingface_hub.utils.disable_progress_bars()


def test_a_task_that_is_not_registered_is_pushed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the card says comes from the manifest."""
    with monkeypatch.context() as registered:
        registered.setitem(TASKS, "my-task", replace(TASKS["winogrande"], name="my-task"))
        registered.setitem(ROWS, "my-task", ROWS["winogrande"])
        store = make_store(tmp_path / "m.zarr", "my-task")
    assert "my-task" not in TASKS
    push(hub, store)
    card = hub.repo(REPO).read("README.md").decode()
    assert 'load_dataset("whyitfailed/gemma2-acts", "my-task"' in card
    assert "| my-task | my-task.rows.jsonl | `local` | see the source | see the source |" in card
    Pull.open(dataset(hub)).pull("my-task", tmp_path / "back.zarr")
    assert tree(tmp_path / "back.zarr") == tree(store)
    push(hub, make_store(tmp_path / "b.zarr", "boolq"))
    assert "- config_name: my-task\n" in hub.repo(REPO).read("README.md").decode()


def test_a_split_of_several_files_is_in_the_order_of_the_store(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wif_store.hub.parquet.FILE_BYTES", 6 * 4 * 64 * 4)
    store = tmp_path / "w.zarr"
    shutil.copytree(made("winogrande"), store)
    stage(store)
    files = sorted(view_path(store).glob("train-*.parquet"))
    assert [file.name for file in files] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    parts = [pq.read_table(file) for file in files]
    assert [part.num_rows for part in parts] == [4, 6, 6]
    assert all(part["success"].to_pylist() == [1, 0] * (part.num_rows // 2) for part in parts)
    table, opened = pa.concat_tables(parts), open_store(store)
    known = opened.table("train")
    assert table.select(known.column_names).cast(known.schema).equals(known)
    for layer in opened.layers:
        found = np.stack(table[f"resid_post_{layer:02d}"].to_numpy())
        assert np.array_equal(found, opened.read_final_token(layer, "train")[0])


# -- what is refused ------------------------------------------------------------------------------------


def test_a_tag_that_is_taken_is_refused_before_anything_is_sent(hub: Hub, made: Made) -> None:
    push(hub, made("winogrande"), target=Target(tag="v1"))
    hub.log.clear()
    with pytest.raises(PublishError, match="has a tag v1 already"):
        push(hub, made("boolq"), target=Target(tag="v1"))
    assert hub.log.count("PUT|/commit/") == 0


@pytest.mark.parametrize("files", [{"model.bin": b"\0"}, {"data/rows.parquet": b"PAR1"}])
def test_a_repo_that_holds_something_else_is_refused(hub: Hub, made: Made, files: dict[str, bytes]) -> None:
    hub.seed(REPO, "dataset", {"README.md": b"# Mine\n", **files})
    with pytest.raises(PublishError, match=rf"holds something else \(found {next(iter(files))}; expected"):
        push(hub, made("winogrande"))


def test_a_repo_with_a_card_alone_is_taken(hub: Hub, made: Made) -> None:
    hub.seed(REPO, "dataset", {"README.md": b"# Soon\n"})
    push(hub, made("winogrande"))
    assert b"config_name: winogrande" in hub.repo(REPO).read("README.md")


@pytest.mark.parametrize(
    "other",
    [
        {"layers": 3},
        {"d_model": 32},
        {"id": "google/gemma-2-9b"},
        {"revision": "f" * 40},
        {"adapter": {"id": "a", "kind": "local", "revision": "x"}},
    ],
)
def test_tasks_of_other_models_or_columns_do_not_mix(
    hub: Hub, made: Made, tmp_path: Path, other: dict[str, object]
) -> None:
    push(hub, made("winogrande"))
    with pytest.raises(PublishError, match="tasks of one dataset must agree"):
        push(hub, make_store(tmp_path / "b.zarr", "boolq", **other))


def test_a_public_repo_is_not_taken_for_a_private_one(hub: Hub, made: Made) -> None:
    push(hub, made("winogrande"))
    with pytest.raises(PublishError, match="exists and is public"):
        push(hub, made("boolq"), target=Target(private=True))
    hub.delete_repo(f"datasets/{REPO}")
    push(hub, made("winogrande"), target=Target(private=True))
    assert hub.repo(REPO).state.private
    push(hub, made("boolq"), target=Target(private=True))


def test_a_damaged_store_is_not_published(hub: Hub, tmp_path: Path) -> None:
    store = make_store(tmp_path / "w.zarr")
    shard = store / "test" / "final_token" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    with pytest.raises(StoreError, match="SHA-256"):
        stage(store)
