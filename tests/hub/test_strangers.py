"""Datasets of strangers: what they say of themselves is checked before it is fetched, written or printed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.hub.loopback import UPLOAD_WARNING
from tests.hub.publishing import REPO, dataset, push, wif
from wif_store.errors import DamageError, PublishError, StoreError
from wif_store.format.manifest import render_manifest
from wif_store.hub.pull import Pull
from wif_store.storage import describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.hub import Hub

    Made = Callable[[str], Path]

pytestmark = [pytest.mark.hub, UPLOAD_WARNING]

TOP = "zarr/winogrande.zarr"
ESCAPE = "\x1b[31m"


@pytest.fixture
def store(hub: Hub, made: Made) -> Path:
    """A store that is published."""
    push(hub, made("winogrande"))
    return made("winogrande")


def replace(hub: Hub, files: dict[str, bytes | None]) -> None:
    """Put files into the published dataset, or take them off, past everything that a push checks."""
    repo = hub.repo(REPO)
    changes = {path: content and repo.adopt(path, content) for path, content in files.items()}
    repo.commit("main", changes, title="Change", author="whyitfailed")
    hub.log.clear()


def manifest_with(store: Path, folder: Path, name: str, content: bytes) -> bytes:
    """The manifest of a store with another file in it, sealed again as whoever tampers with it could."""
    found = json.loads((store / "manifest.json").read_bytes())
    (folder / "changed").write_bytes(content)
    found["files"][name] = describe(folder / "changed")
    (folder / "changed").unlink()
    return render_manifest(found)


# -- sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", ["all", "1"])
@pytest.mark.parametrize("name", ["test/final_token/c/0/0/0", "train/examples.parquet"])
def test_a_file_of_another_size_is_not_fetched(
    hub: Hub, store: Path, tmp_path: Path, name: str, layers: str
) -> None:
    content = (store / name).read_bytes()
    replace(hub, {f"{TOP}/{name}": content + bytes(10**6)})
    with pytest.raises(DamageError, match=rf"{name} is damaged \(the Hub has {len(content) + 10**6} bytes"):
        Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr", layers)
    assert hub.log.count(f"GET .*{name}") == 0
    assert hub.log.count("GET .*/resolve/") == 1, "the manifest alone"


def test_a_file_of_other_content_or_none_is_not_fetched(hub: Hub, store: Path, tmp_path: Path) -> None:
    name = "test/final_token/c/0/0/0"
    content = bytearray((store / name).read_bytes())
    content[7] ^= 1
    replace(hub, {f"{TOP}/{name}": bytes(content)})
    with pytest.raises(DamageError, match=rf"{name} is damaged \(the Hub has other content"):
        Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr")
    replace(hub, {f"{TOP}/{name}": None})
    with pytest.raises(DamageError, match=rf"{name} is damaged \(the Hub has nothing"):
        Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr", [0])
    assert hub.log.count(f"GET .*{name}") == 0


def test_a_manifest_that_is_too_large_is_not_fetched(
    hub: Hub, store: Path, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wif_store.hub.repo.MANIFEST_BYTES", 1000)
    hub.log.clear()
    with pytest.raises(DamageError, match=r"manifest.json has \d+ bytes; expected at most 1000"):
        Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr")
    with pytest.raises(DamageError, match=r"manifest.json has \d+ bytes; expected at most 1000"):
        push(hub, made("boolq"))
    assert hub.log.count("GET .*/manifest.json") == 0


# -- what a store says of itself ------------------------------------------------------------------------


@pytest.mark.parametrize("layers", ["all", "1"])
def test_metadata_of_its_own_are_refused_before_they_are_fetched(
    hub: Hub, store: Path, tmp_path: Path, layers: str
) -> None:
    """A chunk of 16 GiB, as the array says and the manifest agrees: metadata follow from the counts."""
    name = "test/final_token/zarr.json"
    metadata = json.loads((store / name).read_bytes())
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [4, 2**26, 64]
    changed = json.dumps(metadata, indent=1).encode()
    manifest = manifest_with(store, tmp_path, name, changed)
    replace(hub, {f"{TOP}/{name}": changed, f"{TOP}/manifest.json": manifest})
    with pytest.raises(DamageError, match="test/final_token is not described as the store's counts require"):
        Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr", layers)
    assert hub.log.count("GET .*/resolve/.*/zarr.json") == 0
    assert not (tmp_path / "w.zarr").exists()


def test_a_store_under_the_name_of_another_task_is_refused(hub: Hub, made: Made, tmp_path: Path) -> None:
    store = made("boolq")
    hub.seed(REPO, "dataset", {"zarr/piqa.zarr": store})
    line = "piqa.zarr is a store of boolq; expected one of piqa"
    with pytest.raises(DamageError, match=line):
        Pull.open(dataset(hub)).pull("piqa", tmp_path / "p.zarr")
    with pytest.raises(DamageError, match=line):
        push(hub, made("winogrande"))
    assert not (tmp_path / "p.zarr").exists()


@pytest.mark.parametrize("name", ["../../x", "a/../../x", f"train/{ESCAPE}x"])
def test_files_whose_names_lead_elsewhere_are_refused(
    hub: Hub, store: Path, tmp_path: Path, name: str
) -> None:
    replace(hub, {f"{TOP}/manifest.json": manifest_with(store, tmp_path, name, b"x")})
    with pytest.raises(StoreError, match="is not a file below the store") as refused:
        Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr")
    assert str(refused.value).isprintable()


def test_a_file_that_no_store_has_is_refused(hub: Hub, store: Path, tmp_path: Path) -> None:
    manifest = manifest_with(store, tmp_path, "train/more", b"x")
    replace(hub, {f"{TOP}/manifest.json": manifest, f"{TOP}/train/more": b"x"})
    with pytest.raises(DamageError, match="train/more is named; expected otherwise"):
        Pull.open(dataset(hub)).pull("winogrande", tmp_path / "w.zarr")


@pytest.mark.parametrize("task", ["..", ".", "a/b", "a b", "", "x" * 100, "a\n", "-x"])
def test_names_of_tasks_that_are_no_part_of_a_path(hub: Hub, store: Path, tmp_path: Path, task: str) -> None:
    pull = Pull.open(dataset(hub))
    pull.files[f"zarr/{task}.zarr/manifest.json"] = pull.files[f"{TOP}/manifest.json"]
    with pytest.raises(PublishError, match="expected a name of letters, digits"):
        pull.pull(task, tmp_path / "x.zarr")
    assert not list(tmp_path.iterdir())


# -- the terminal ---------------------------------------------------------------------------------------


def printed(hub: Hub, *args: object) -> str:
    """What a command that fails prints last; a terminal obeys nothing of what it prints."""
    run = wif(hub, *args)
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    assert (run.stdout + run.stderr).replace("\n", "").isprintable()
    return run.stderr.splitlines()[-1]


def test_names_of_tasks_that_hold_escapes(hub: Hub, made: Made, tmp_path: Path) -> None:
    hub.seed(REPO, "dataset", {f"zarr/{ESCAPE}.zarr": made("boolq")})
    line = r"has a store of a task '\x1b[31m'; expected a name of letters, digits, _ . and -"
    assert line in printed(hub, "pull", REPO, "--out", tmp_path / "x")
    assert line in printed(hub, "push", made("winogrande"))
    named = printed(hub, "pull", REPO, "--task", "boolq", "--out", tmp_path / "x")
    assert r"has no store of boolq; it has: \x1b[31m" in named
    assert not (tmp_path / "x").exists()


def test_names_of_files_that_hold_escapes(hub: Hub, made: Made) -> None:
    hub.seed(REPO, "dataset", {f"{ESCAPE}notes.txt": b"x"})
    assert r"(found \x1b[31mnotes.txt; expected an empty" in printed(hub, "push", made("winogrande"))


def test_what_the_hub_says_that_holds_escapes(hub: Hub, made: Made) -> None:
    hub.fail("POST /api/repos/create", status=400, message=f"No {ESCAPE}[bold]way[/bold]")
    assert r"the Hub refuses this with 400 (No \x1b[31m[bold]way[/bold])" in printed(
        hub, "push", made("winogrande")
    )


def test_a_path_is_no_markup(hub: Hub, store: Path, tmp_path: Path) -> None:
    run = wif(hub, "pull", REPO, "--out", "[bold]x[/bold]", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stderr.startswith("[bold]x[/bold]/winogrande.zarr: ")
