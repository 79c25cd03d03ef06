"""Everything that a person can get wrong, or the Hub can refuse: one clear line, and no token in it."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.hub.loopback import UPLOAD_WARNING
from tests.hub.publishing import REPO, contents, dataset, push, wif
from tests.support.stores import make_store
from wif_store.errors import PublishError, WifError
from wif_store.hub.pull import Pull
from wif_store.hub.push import Target
from wif_store.hub.repo import RemoteDataset

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.hub import Hub

    Made = Callable[[str], Path]

pytestmark = [pytest.mark.hub, UPLOAD_WARNING]


def refused(hub: Hub, *args: object, **how: object) -> str:
    """The one line of a command that fails."""
    run = wif(hub, *args, **how)
    assert run.returncode == 1, run.stderr
    last = run.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in run.stderr
    for token in (*hub.accounts, "hf_wrong"):
        assert token not in run.stderr + run.stdout
    return last.removeprefix("error: ")


def test_tokens(hub: Hub, made: Made) -> None:
    store = made("winogrande")
    assert refused(hub, "push", store, token=None) == (
        "no token was found: run `hf auth login`, or set HF_TOKEN to a token that may write"
    )
    assert refused(hub, "push", store, token="hf_wrong") == (
        f"dataset {REPO}: the Hub does not accept the token: run `hf auth login`"
    )
    assert refused(hub, "push", store, token=hub.read_token) == (
        "the token of whyitfailed only reads: make one that writes and run `hf auth login`"
    )
    assert not hub.repos, "nothing was made"


def test_no_right_to_write(hub: Hub, made: Made) -> None:
    mend = "name a --repo of your own, or ask its owner for write access"
    line = f"dataset {REPO}: the token may not write here ({{}}): {mend}"
    said = 'You don\'t have the rights to create a dataset under the namespace "whyitfailed"'
    assert refused(hub, "push", made("winogrande"), token=hub.stranger_token) == line.format(said)
    push(hub, made("winogrande"))
    before = contents(hub)
    said = f"Forbidden: you have no write access to datasets/{REPO}"
    assert refused(hub, "push", made("boolq"), token=hub.stranger_token) == line.format(said)
    assert contents(hub) == before


def test_a_name_that_is_taken(hub: Hub, made: Made) -> None:
    hub.fail("POST /api/repos/create", status=409)
    with pytest.raises(PublishError, match=f"the name {REPO} is taken by a dataset that you cannot see"):
        push(hub, made("winogrande"))


def test_a_repo_whose_creation_lost_its_answer_is_used(hub: Hub, made: Made, impatient: list[float]) -> None:
    hub.fail("POST /api/repos/create", lose_response=True)
    push(hub, made("winogrande"))
    assert "zarr/winogrande.zarr/zarr.json" in contents(hub)


def test_something_else_in_the_repo(hub: Hub, made: Made) -> None:
    hub.seed(REPO, "dataset", {"train.csv": b"a,b\n"})
    assert refused(hub, "push", made("winogrande")) == (
        f"{REPO} holds something else (found train.csv; expected an empty repository, or one that wif-store "
        "has filled): choose another --repo"
    )


def test_a_store_of_another_format_in_the_repo(hub: Hub, made: Made) -> None:
    manifest = json.dumps({"format": "wif-store", "format_version": 99}).encode()
    hub.seed(REPO, "dataset", {"zarr/piqa.zarr/manifest.json": manifest, "zarr/piqa.zarr/zarr.json": b"{}"})
    assert "has format version 99; this wif-store reads version 1" in refused(hub, "push", made("winogrande"))


def test_the_rate_limit(hub: Hub, made: Made, impatient: list[float]) -> None:
    hub.fail(status=429, retry_after=3, times=None)
    line = f"dataset {REPO}: the Hub's rate limit is reached: wait a few minutes and run the same command"
    with pytest.raises(PublishError, match=f"^{line}$"):
        push(hub, made("winogrande"))
    with pytest.raises(PublishError, match=f"^{line}$"):
        Pull.open(dataset(hub))
    assert max(impatient) == 16
    assert min(impatient) >= 3


UPLOADS = {
    "429": ({"status": 429}, "the Hub's rate limit is reached: wait a few minutes and run the same command"),
    "500": (
        {"status": 500},
        r"the Hub answered 500 \(Told to fail\): run the same command later",
    ),
    "403": ({"status": 403}, r"the token may not write here \(Told to fail\): name a --repo of your own"),
    "reset": ({"reset_after": 100}, "no connection to the Hub at http://127.0.0.1"),
}


@pytest.mark.parametrize(("how", "line"), UPLOADS.values(), ids=UPLOADS)
def test_an_upload_that_fails_for_good(
    hub: Hub, made: Made, impatient: list[float], how: dict[str, int], line: str
) -> None:
    hub.fail("PUT /cdn/", **how, times=None)
    with pytest.raises(PublishError, match=f"^dataset {REPO}: {line}"):
        push(hub, made("winogrande"))


def test_what_the_client_tries_again_is_not_told(hub: Hub, made: Made) -> None:
    fault = hub.fail("PUT /cdn/", status=500)
    run = wif(hub, "push", made("winogrande"))
    assert (run.returncode, fault.hits) == (0, 1), run.stderr
    assert "ticket=" not in run.stderr
    assert "HTTP Error" not in run.stderr


def test_what_the_hub_finds_wrong_is_said(hub: Hub, made: Made) -> None:
    hub.fail("POST /api/repos/create", status=400)
    assert refused(hub, "push", made("winogrande")) == (
        f"dataset {REPO}: the Hub refuses this with 400 (Told to fail): mend what it names; see "
        f"{hub.endpoint}/datasets/{REPO}"
    )


@pytest.mark.parametrize("name", ["a b", "-x", "a..b", "a//b", "v1.", "v1.lock", "a/", ""])
def test_names_of_no_branch_or_tag(name: str) -> None:
    for option, target in (("--tag", {"tag": name}), ("--revision", {"revision": name})):
        with pytest.raises(PublishError, match=f"{option} is '{name}'; expected a name that git allows"):
            Target(**target)


def test_no_network(hub: Hub, made: Made, tmp_path: Path) -> None:
    endpoint = hub.endpoint
    hub.stop()
    line = f"dataset {REPO}: no connection to the Hub at {endpoint}: run the same command when there is one"
    assert refused(hub, "push", made("winogrande")) == line
    assert refused(hub, "pull", REPO, "--out", tmp_path / "x") == line
    assert not (tmp_path / "x").exists()


def test_offline(hub: Hub, made: Made) -> None:
    assert refused(hub, "push", made("winogrande"), HF_HUB_OFFLINE="1") == (
        f"dataset {REPO}: HF_HUB_OFFLINE is set: unset it to reach the Hub"
    )


def test_stores(hub: Hub, made: Made, tmp_path: Path) -> None:
    assert refused(hub, "push", cwd=tmp_path) == (
        "no finished store under stores/gemma-2-2b: name one, or build it with `wif-store build`"
    )
    other = make_store(tmp_path / "other.zarr", seed=3)
    assert refused(hub, "push", made("winogrande"), other) == (
        f"{other} and {made('winogrande')} are both stores of winogrande: name one of them"
    )
    assert "found no manifest.json" in refused(hub, "push", tmp_path)


def test_a_store_of_another_model_needs_a_repo(hub: Hub, made: Made, tmp_path: Path) -> None:
    """The dataset that is the default has one model's stores."""
    other = make_store(tmp_path / "b.zarr", "boolq", id="Qwen/Qwen3-0.6B")
    local = make_store(tmp_path / "l.zarr", "boolq", kind="folder")
    for store, model in ((other, "Qwen/Qwen3-0.6B"), (local, "google/gemma-2-2b")):
        for options in ([], ["--dry-run"]):
            assert refused(hub, "push", made("winogrande"), store, *options) == (
                f"--repo is required: {store} is of {model}, and {REPO} has google/gemma-2-2b alone; name a "
                "dataset of your own, OWNER/NAME"
            )
    assert not hub.repos, "nothing was made"
    run = wif(hub, "push", other, "--repo", "whyitfailed/qwen-acts")
    assert run.returncode == 0, run.stderr
    assert list(hub.repos) == ["datasets/whyitfailed/qwen-acts"]


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_view_that_cannot_be_written(hub: Hub, made: Made, tmp_path: Path, dry: list[str]) -> None:
    store = tmp_path / "w.zarr"
    shutil.copytree(made("winogrande"), store)
    (tmp_path / "w.zarr.view.partial").write_bytes(b"")
    line = refused(hub, "push", store, *dry)
    assert line.startswith(f"{store}.view, the Parquet view of the store, cannot be written (")
    assert line.endswith("make room, or make the folder around it writable, or push a copy of the store")
    assert not hub.repos


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_in_a_folder_without_the_right_to_write(hub: Hub, made: Made, tmp_path: Path) -> None:
    store = tmp_path / "w.zarr"
    shutil.copytree(made("winogrande"), store)
    tmp_path.chmod(0o555)
    try:
        assert "cannot be written (" in refused(hub, "push", store, "--dry-run")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("name", ["acts", "a/b/c", "a b/c", "/", "hf://datasets/a/b"])
def test_names_of_no_repo(name: str) -> None:
    with pytest.raises(PublishError, match="names no repository: expected OWNER/NAME"):
        RemoteDataset(name)


def test_options_that_do_not_go_together(hub: Hub, made: Made) -> None:
    for options in (["--tag", "v1"], ["--revision", "next"]):
        assert "--create-pr goes with neither" in refused(
            hub, "push", made("winogrande"), "--create-pr", *options
        )


def test_results_of_other_stores(hub: Hub, made: Made, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(WifError, match="is not what `wif-store score --out` writes"):
        push(hub, made("winogrande"), results=tmp_path)
    store = {"model": {}, "protocol": {}, "source": {}, "selection": {}}
    (tmp_path / "results.json").write_text(json.dumps({"tasks": [{"task": "winogrande", "store": store}]}))
    with pytest.raises(WifError, match="was measured on other stores"):
        push(hub, made("winogrande"), results=tmp_path)


def test_a_dry_run_changes_nothing(hub: Hub, made: Made) -> None:
    run = wif(hub, "push", made("winogrande"), "--dry-run", token=None)
    assert run.returncode == 0, run.stderr
    assert "data/winogrande" in run.stderr
    assert "zarr/winogrande.zarr" in run.stderr
    assert not hub.repos
    push(hub, made("winogrande"), target=Target(tag="v1"))
    before = contents(hub)
    assert "boolq, winogrande" in wif(hub, "push", made("boolq"), "--dry-run").stderr
    assert contents(hub) == before
