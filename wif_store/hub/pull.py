"""A dataset on the Hub -> stores: whole ones byte for byte, or the layers that are wanted."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import DamageError, PublishError, StoreError
from wif_store.format.manifest import parse_manifest
from wif_store.storage import describe
from wif_store.hub.partial import files_of_layers, is_part_of, is_residual, keep_layers
from wif_store.hub.staging import store_folder
from wif_store.format.schema import MANIFEST
from wif_store.store.verify import verify_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from wif_store.hub.repo import RemoteDataset, RemoteFile

THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class Pulled:
    """A store that is here now. ``fetched`` counts bytes; 0 where it was here already."""

    path: Path
    fetched: int


@dataclass(frozen=True, slots=True)
class Pull:
    """Fetches stores of one dataset at one commit.

    Attributes:
        remote: The dataset.
        commit: The commit, so that what is fetched is of one piece.
        files: Every file of it.
    """

    remote: RemoteDataset
    commit: str
    files: dict[str, RemoteFile]

    @classmethod
    def open(cls, remote: RemoteDataset, revision: str = "main") -> Pull:
        """Look at a revision.

        Raises:
            PublishError: If there is no such dataset or revision, or it cannot be read.
        """
        commit = str(remote.call(remote.api.dataset_info, remote.name, revision=revision).sha)
        return cls(remote, commit, remote.files(commit))

    def tasks(self) -> list[str]:
        """The tasks that the dataset has."""
        ends = f".zarr/{MANIFEST}"
        names = (p for p in self.files if p.startswith("zarr/") and p.endswith(ends))
        return sorted(name.removeprefix("zarr/").removesuffix(ends) for name in names)

    def check_task(self, task: str) -> None:
        """Refuse a task that the dataset has not."""
        if task not in self.tasks():
            have = ", ".join(self.tasks()) or "no store at all"
            msg = f"{self.remote.name} has no store of {task}; it has: {have}"
            raise PublishError(msg)

    def manifest(self, task: str, folder: Path) -> Path:
        """Fetch a task's manifest and check that it is one."""
        self.check_task(task)
        path = self.remote.fetch(f"{store_folder(task)}/{MANIFEST}", self.commit, folder)
        parse_manifest(path.read_bytes(), f"{self.remote.name}/{store_folder(task)}")
        return path

    def pull(
        self,
        task: str,
        out: Path,
        layers: Sequence[int] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Pulled:
        """Fetch one store to ``out``, where nothing stands until it is whole and verified.

        Args:
            task: The task.
            out: The store's folder, ``....zarr``.
            layers: The blocks to fetch, of final tokens and of sequences; all where it is None.
            progress: Called with the bytes that are here and the bytes that are wanted.

        Raises:
            PublishError: If the dataset has not this task or layer, or something else stands at ``out``.
            DamageError: If a file is not what the manifest says, fetched twice.
        """
        # Not the ``.partial`` of a build: neither must take the other's work for its own.
        work = out.with_name(out.name + ".pulling")
        here = work / store_folder(task)
        fetched = work / "fetched"
        manifest = self.manifest(task, fetched).read_bytes()
        if out.exists():
            shutil.rmtree(work)
            return _there(out, manifest, layers)
        here, name = fetched / store_folder(task), f"{self.remote.name}/{store_folder(task)}"
        entries = dict(parse_manifest(manifest, name).files)
        if layers is not None:
            self._fetch(here, fetched, {n: e for n, e in entries.items() if not is_residual(n)})
            entries = {n: entries[n] for n in files_of_layers(here, entries, layers, name)}
        self._fetch(here, fetched, entries, progress)
        if layers is not None:
            here = keep_layers(here, work / "store", layers)
        verify_store(here)
        here.rename(out)
        shutil.rmtree(work)
        return Pulled(out, sum(entry["size"] for entry in entries.values()))

    def _fetch(
        self,
        here: Path,
        top: Path,
        entries: Mapping[str, Mapping[str, Any]],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Fetch files of a store, but for those that are here, and compare each with its SHA-256."""
        total, done = sum(entry["size"] for entry in entries.values()), 0

        def fetch(name: str) -> int:
            path, entry = here / name, entries[name]
            for _ in range(2):
                if path.is_file() and describe(path) == entry:
                    return int(entry["size"])
                path.unlink(missing_ok=True)
                self.remote.fetch(path.relative_to(top).as_posix(), self.commit, top)
            if describe(path) == entry:
                return int(entry["size"])
            path.unlink()
            msg = f"{self.remote.name}: {name} does not have its SHA-256, fetched twice: pull again later"
            raise DamageError(msg)

        with ThreadPoolExecutor(THREADS) as pool:
            try:
                for size in pool.map(fetch, entries):
                    done += size
                    progress(done, total)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _there(out: Path, manifest: bytes, layers: Sequence[int] | None) -> Pulled:
    """What stands at ``out``, if it is what would be fetched."""
    try:
        verify_store(out)
        found = (out / MANIFEST).read_bytes()
    except StoreError as error:
        msg = f"{out} exists and is not a whole store ({error}): choose another --out, or delete it"
        raise PublishError(msg) from None
    same = found == manifest if layers is None else is_part_of(found, manifest, layers)
    if not same:
        msg = f"{out} is another store, or other layers of it: choose another --out, or delete it"
        raise PublishError(msg)
    return Pulled(out, 0)
