"""Stores -> a dataset on the Hub: what ``wif-store push`` does, for the command line and for Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wif_store.errors import PublishError
from wif_store.hub.push_run import Progress as Progress
from wif_store.hub.push_run import Push
from wif_store.hub.push_run import Pushed as Pushed
from wif_store.hub.push_run import Target as Target
from wif_store.hub.repo import RemoteDataset, quiet_client
from wif_store.hub.staging import Staged, stage
from wif_store.progress import BYTES, Told, telling
from wif_store.store.reader import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub import HfApi

    from wif_store.hub.push_plan import Plan

Stores = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""The folder of a store, or of several."""

DEFAULT_MODEL: Final = "google/gemma-2-2b"
DEFAULT_REPO: Final = "whyitfailed/gemma2-acts"
"""Where stores of the default model go unless told otherwise."""


def push_stores(
    stores: Stores,
    repo: str | None = None,
    target: Target | None = None,
    *,
    results: str | os.PathLike[str] | None = None,
    progress: Progress | bool | None = None,
    api: HfApi | None = None,
) -> Pushed:
    """Publish stores as a dataset on the Hub. The same call goes on after a stop.

    Args:
        stores: The store's folder, or several, each of another task and all of one model and protocol.
        repo: The dataset: ``OWNER/NAME``. May be None for stores of Gemma-2 2B alone, which have a dataset.
        target: Where it is to become visible; the branch ``main`` where it is None.
        results: Folder with the ``results.json`` of scores to show, and what else ``score --out`` wrote.
        progress: Whether a bar is shown, or who is told how it goes. None shows a bar in a notebook alone.
        api: The Hub's client; that of the environment where it is None.

    Raises:
        StoreError: If one is no finished store, or damaged.
        PublishError: If the stores cannot stand in one dataset, or the Hub refuses or cannot be reached.

    Example::

        wif_store.push("winogrande.zarr", "OWNER/NAME")
    """
    with quiet_client(), _progress(progress) as told:
        push = _prepared(stores, repo, target, results, told, api)
        push.progress.phase("asking the Hub")
        push.remote.check_token()
        push.staged = _stage(_paths(stores), push.progress)
        return push.run()


def plan_push(
    stores: Stores,
    repo: str | None = None,
    target: Target | None = None,
    *,
    results: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    api: HfApi | None = None,
) -> Plan:
    """What ``push_stores`` would change, without changing anything on the Hub. No token is needed."""
    with quiet_client():
        push = _prepared(stores, repo, target, results, progress, api)
        push.staged = _stage(_paths(stores), push.progress)
        return push.plan()


@contextmanager
def _progress(progress: Progress | bool | None) -> Iterator[Progress]:
    if isinstance(progress, Progress):
        yield progress
        return
    with telling(progress, "verifying and exporting", BYTES) as told:
        yield _Bytes(told)


@dataclass(frozen=True, slots=True)
class _Bytes(Progress):
    """Tells how many bytes were uploaded."""

    told: Told

    def uploaded(self, done: int, total: int) -> None:
        self.told("uploading", done, total)


def _prepared(
    stores: Stores,
    repo: str | None,
    target: Target | None,
    results: str | os.PathLike[str] | None,
    progress: Progress | None,
    api: HfApi | None,
) -> Push:
    """A push whose stores are still to be staged, which takes a while."""
    remote = RemoteDataset(repo_of(_paths(stores), repo), api)
    folder = None if results is None else Path(results)
    return Push(remote, (), target or Target(), folder, progress or Progress())


def _paths(stores: Stores) -> list[Path]:
    return [Path(stores)] if isinstance(stores, str | os.PathLike) else [Path(store) for store in stores]


def repo_of(stores: Sequence[Path], repo: str | None) -> str:
    """Where stores go: ``repo``, or the dataset of the default model where all of them are of it.

    Raises:
        StoreError: If one is no finished store.
        PublishError: If they are of another model and ``repo`` is None, or there is no store.
    """
    if not stores:
        msg = "no store was named: expected the folder of one, as in stores/gemma-2-2b/aligned/boolq.zarr"
        raise PublishError(msg)
    if repo is not None:
        return repo
    for store in stores:
        model = open_store(store).manifest.model
        if (model["kind"], model["id"]) != ("hub", DEFAULT_MODEL) or model.get("adapter"):
            msg = (
                f"--repo is required: {store} is of {model['id']}, and {DEFAULT_REPO} has {DEFAULT_MODEL} "
                "alone; name a dataset of your own, OWNER/NAME"
            )
            raise PublishError(msg)
    return DEFAULT_REPO


def _stage(stores: Sequence[Path], progress: Progress) -> list[Staged]:
    """Verify and export the stores, one after the other."""
    staged: dict[str, Staged] = {}
    for folder in stores:
        progress.phase(f"verifying and exporting {folder}")
        made = stage(folder)
        if made.store.task in staged:
            other = staged[made.store.task].store.name
            msg = f"{folder} and {other} are both stores of {made.store.task}: name one of them"
            raise PublishError(msg)
        staged[made.store.task] = made
    return list(staged.values())
