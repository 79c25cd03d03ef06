"""A dataset on the Hub -> stores: complete ones byte for byte, or the layers that are wanted."""

from __future__ import annotations

import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wif_store.errors import DamageError, PublishError, StoreError, one_line
from wif_store.format.layers import parse_layers
from wif_store.format.schema import FINAL_TOKEN, MANIFEST, SEQUENCE
from wif_store.hub.partial import THREADS, LayerFetch, is_part_of
from wif_store.hub.repo import RemoteDataset, check_task_name, quiet_client, store_folder, tasks_of
from wif_store.progress import BYTES, Told, telling
from wif_store.storage import LocalStorage, describe, write_file
from wif_store.store.files import check_files
from wif_store.store.verify import verify_store

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from huggingface_hub import HfApi

    from wif_store.format.schema import Manifest
    from wif_store.hub.repo import RemoteFile


@dataclass(frozen=True, slots=True)
class Pulled:
    """A store that is here now. ``fetched`` counts bytes; 0 where it was here already."""

    task: str
    path: Path
    fetched: int


def pull_dataset(
    repo: str,
    tasks: str | Sequence[str] = (),
    layers: str | Sequence[int] = "all",
    revision: str = "main",
    out: str | os.PathLike[str] | None = None,
    progress: Told | bool | None = None,
    *,
    api: HfApi | None = None,
) -> list[Pulled]:
    """Fetch stores from the Hub and verify every byte. The same call goes on after a stop.

    Args:
        repo: The dataset: ``OWNER/NAME``.
        tasks: The tasks to fetch, or one; all of the dataset where there are none.
        layers: ``all``, ``none``, ``auto``, or 0-based decoder layers, as a text such as ``0,4,9-12`` or as
            numbers. With other than all of them the result is a smaller store, which cannot be pushed.
        revision: A branch, tag or commit. All stores are of the one commit that it names now.
        out: The folder for ``{task}.zarr``; ``stores/OWNER/NAME`` where it is None.
        progress: Whether a bar is shown, or who is told the task, the bytes of it that are here, and those
            that are wanted. None shows a bar in a notebook alone.
        api: The Hub's client; that of the environment where it is None.

    Returns:
        What is here now, a store for each task.

    Raises:
        PublishError: If there is no such dataset, revision or task, or something else stands in the way.
        LayersError: If a store has not one of the layers.
        StoreError: If the dataset holds a store of another format version.
        DamageError: If a file is not what its manifest says.

    Example::

        [pulled] = wif_store.pull("whyitfailed/gemma2-acts", "boolq", layers="auto")
        store = wif_store.open_store(pulled.path)
    """
    with quiet_client(), telling(progress, "asking the Hub", BYTES) as told:
        pull = Pull.open(RemoteDataset(repo, api), revision)
        named = [tasks] if isinstance(tasks, str) else list(dict.fromkeys(tasks))
        wanted = named or pull.tasks()
        for task in wanted or ["any task"]:
            pull.check_task(task)
        folder = Path("stores", *repo.split("/")) if out is None else Path(out)
        return [pull.pull(task, folder / f"{task}.zarr", layers, told) for task in wanted]


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
        commit = remote.commit(revision)
        return cls(remote, commit, remote.files(commit))

    def tasks(self) -> list[str]:
        """The tasks that the dataset has."""
        return tasks_of(self.files)

    def check_task(self, task: str) -> None:
        """Refuse a task that the dataset has not, or whose name is none."""
        if task not in self.tasks():
            have = ", ".join(self.tasks())[:200] or "no store at all"
            msg = f"{self.remote.name} has no store of {task}; it has: {have}"
            raise PublishError(msg)
        check_task_name(task, self.remote.name)

    def pull(
        self,
        task: str,
        out: Path,
        layers: str | Sequence[int] = "all",
        progress: Told = lambda task, done, total: None,
    ) -> Pulled:
        """Fetch one store to ``out``, where nothing stands until it is complete and verified.

        Args:
            task: The task.
            out: The store's folder, ``....zarr``.
            layers: The decoder layers to fetch, of final tokens and of sequences, as for ``pull_dataset``.
            progress: Told the task, the bytes of it that are here, and those that are wanted.

        Raises:
            PublishError: If the dataset has not this task, or something else stands at ``out``.
            LayersError: If the store has not one of the layers.
            DamageError: If a file is not what the manifest says.
        """
        self.check_task(task)
        # Not the ``.partial`` of a build: neither must take the other's work for its own.
        work = out.with_name(out.name + ".pulling")
        try:
            with LocalStorage(work).hold():
                fetched = self._pull(task, out, work, layers, progress)
                shutil.rmtree(work, ignore_errors=True)
        except BlockingIOError:
            msg = f"another pull is writing {out}: wait for it, or choose another --out"
            raise PublishError(msg) from None
        except OSError as error:
            msg = f"{out} cannot be written ({one_line(error)}): mend that, or choose another --out"
            raise PublishError(msg) from error
        return Pulled(task, out, fetched)

    def _pull(self, task: str, out: Path, work: Path, layers: str | Sequence[int], progress: Told) -> int:
        top, fetched = store_folder(task), work / "fetched"
        with tempfile.TemporaryDirectory() as folder:
            content, manifest = self.remote.manifest(task, self.commit, self.files, Path(folder))
        wanted = _wanted(manifest, layers)
        if out.exists():
            _check_there(out, content, wanted)
            return 0
        self._check_files(manifest, top)
        track = _Track(task, progress)
        if wanted is None:
            here = fetched / top
            _keep_only(here, {MANIFEST, *manifest.files})
            track.total = sum(entry["size"] for entry in manifest.files.values())
            self._fetch(here, fetched, manifest.files, track)
            write_file(here / MANIFEST, content)
        else:
            here = work / "store"
            self._fetch_layers(
                here,
                fetched,
                LayerFetch(
                    f"{self.remote.name}/{top}",
                    content,
                    manifest,
                    wanted,
                    lambda file, start, stop: self.remote.read(f"{top}/{file}", self.commit, start, stop),
                    track.add,
                ),
                track,
            )
        verify_store(here)
        here.rename(out)
        return track.total

    def _fetch_layers(self, here: Path, fetched: Path, layers: LayerFetch, track: _Track) -> None:
        """Make a store of some layers at ``here``."""
        files, small = layers.manifest.files, layers.small_files()
        track.total = layers.open() + sum(files[name]["size"] for name in small)
        top = fetched / store_folder(layers.manifest.task)
        self._fetch(top, fetched, {name: files[name] for name in small}, track)
        _keep_only(here, {*small, *layers.shards()})
        for name in small:
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(top / name, here / name)
        layers.write(here)

    def _check_files(self, manifest: Manifest, top: str) -> None:
        """Refuse a store whose files on the Hub are not those of its manifest, before any is fetched."""
        where = f"{self.remote.name}/{top}"
        check_files(manifest, where)
        for name, entry in manifest.files.items():
            there = self.files.get(f"{top}/{name}")
            found = "nothing" if there is None else f"{there.size} bytes"
            if there is not None and there.size == entry["size"]:
                if there.sha256 in (None, entry["sha256"]):
                    continue
                found = "other content"
            msg = (
                f"{where}: {name} is damaged (the Hub has {found}, the manifest says {entry['size']} bytes "
                f"of SHA-256 {entry['sha256'][:16]}...): nothing was fetched; ask its owner to push it again"
            )
            raise DamageError(msg)

    def _fetch(self, here: Path, top: Path, entries: Mapping[str, Mapping[str, Any]], track: _Track) -> None:
        """Fetch files of a store, but for those that are here, and compare each with its SHA-256."""

        def fetch(name: str) -> None:
            path, entry = here / name, entries[name]
            expected = {"size": entry["size"], "sha256": entry["sha256"]}
            for _ in range(2):
                if path.is_file() and describe(path) == expected:
                    break
                path.unlink(missing_ok=True)
                self.remote.fetch(path.relative_to(top).as_posix(), self.commit, top)
            else:
                if describe(path) != expected:
                    path.unlink()
                    where = f"{self.remote.name}: {name}"
                    msg = f"{where} does not have its SHA-256, fetched twice: pull again later"
                    raise DamageError(msg)
            track.add(entry["size"])

        with ThreadPoolExecutor(THREADS) as pool:
            try:
                for _ in pool.map(fetch, entries):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


@dataclass(slots=True)
class _Track:
    """Counts the bytes of a store that are here; threads add to it."""

    task: str
    progress: Told
    total: int = 0
    _done: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size
            self.progress(self.task, self._done, self.total)


def _wanted(manifest: Manifest, layers: str | Sequence[int]) -> tuple[int, ...] | None:
    """The layers that are wanted; None where these are all that the store has."""
    available = sorted({*manifest.layers[FINAL_TOKEN], *manifest.layers[SEQUENCE]})
    if not isinstance(layers, str):
        layers = ",".join(map(str, layers)) or "none"
    wanted = parse_layers(layers, available)
    return None if list(wanted) == available else wanted


def _keep_only(folder: Path, names: Iterable[str]) -> None:
    """Remove what another commit, other layers or a killed process left in a folder."""
    wanted = {folder / name for name in names}
    for path in folder.rglob("*"):
        if path not in wanted and not path.is_dir():
            path.unlink()


def _check_there(out: Path, manifest: bytes, layers: Sequence[int] | None) -> None:
    """Refuse what stands at ``out``, unless it is what would be fetched."""
    try:
        verify_store(out)
        found = (out / MANIFEST).read_bytes()
    except StoreError as error:
        msg = f"{out} exists and is not a complete store ({error}): choose another --out, or delete it"
        raise PublishError(msg) from None
    same = found == manifest if layers is None else is_part_of(found, manifest, layers)
    if not same:
        msg = f"{out} is another store, or other layers of it: choose another --out, or delete it"
        raise PublishError(msg)
