"""What a push would change: the dataset as it is, the stores to publish, and the card of both together."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import PublishError
from wif_store.hub.card import Published, check_card, matching_results, render_card
from wif_store.hub.repo import store_folder, tasks_of, view_folder
from wif_store.hub.staging import LocalFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from wif_store.hub.repo import RemoteDataset, RemoteFile
    from wif_store.hub.staging import Staged

CARD: Final = "README.md"
RESULTS: Final = "results/results.json"
BESIDE: Final = tuple(
    f"results/{name}" for name in ("figure.png", "steering.png", "report.html", "scores.parquet")
)
"""What may stand beside the results."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a push would change.

    Attributes:
        head: The commit it starts from; None where there is no repository or branch yet.
        wanted: Every file of the tasks that are pushed, and the card, by path in the repository.
        missing: Those that are not there yet.
        deleted: Files of these tasks that belong to what stood there before.
        tasks: Every task that the dataset will have.
    """

    head: str | None
    wanted: Mapping[str, LocalFile]
    missing: tuple[str, ...]
    deleted: tuple[str, ...]
    tasks: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Bytes to upload."""
        return sum(self.wanted[path].size for path in self.missing)

    @property
    def changes(self) -> int:
        """Files that would be added, replaced or removed."""
        return len(self.missing) + len(self.deleted)


@dataclass(frozen=True, slots=True)
class Planner:
    """Compares stores with what a dataset holds.

    Attributes:
        remote: The dataset.
        staged: The stores; one for each task.
        results: Folder with ``results.json`` and what ``score --out`` writes beside it, or None.
        folder: A temporary folder for what is fetched and made.
    """

    remote: RemoteDataset
    staged: Sequence[Staged]
    results: Path | None
    folder: Path

    def plan(self, head: str | None) -> Plan:
        """Look at what a commit holds and say what is missing.

        Raises:
            PublishError: If the repository holds something else, or cannot be read.
        """
        there = self.remote.files(head) if head else {}
        tasks = [*(self._others(head, there) if head else ()), *map(_describe, self.staged)]
        _check_alike(tasks)
        wanted = {path: file for staged in self.staged for path, file in staged.files.items()}
        folders = tuple(f"{top(s.store.task)}/" for s in self.staged for top in (store_folder, view_folder))
        deleted = [path for path in there if path.startswith(folders) and path not in wanted]
        results, files = self._results(head, there, tasks)
        wanted |= files
        deleted += [path for path in (RESULTS, *BESIDE) if path in there and path not in files]
        card = render_card(
            self.remote.name, tasks, results, beside=[path for path in BESIDE if path in files]
        )
        check_card(card, [*there, *wanted])
        (self.folder / CARD).write_text(card, encoding="utf-8")
        wanted[CARD] = local_file(self.folder / CARD)
        missing = (
            p for p, f in wanted.items() if p not in there or not there[p].holds(f.path, f.size, f.sha256)
        )
        return Plan(head, wanted, tuple(missing), tuple(deleted), tuple(sorted(task.task for task in tasks)))

    def _others(self, head: str, there: Mapping[str, RemoteFile]) -> Iterator[Published]:
        """The tasks that the dataset has already, other than those that are pushed."""
        tasks = tasks_of(there)
        foreign = sorted(there.keys() - {CARD, ".gitattributes"})
        if not tasks and foreign:
            msg = (
                f"{self.remote.name} holds something else (found {foreign[0]}; expected an empty repository, "
                "or one that wif-store has filled): choose another --repo"
            )
            raise PublishError(msg)
        pushed = {staged.store.task for staged in self.staged}
        for task in tasks:
            if task not in pushed:
                _, manifest = self.remote.manifest(task, head, there, self.folder)
                views = (
                    file.size for path, file in there.items() if path.startswith(f"{view_folder(task)}/")
                )
                yield Published(manifest, sum(views))

    def _results(
        self, head: str | None, there: Mapping[str, RemoteFile], tasks: Sequence[Published]
    ) -> tuple[Mapping[str, Any] | None, dict[str, LocalFile]]:
        """Results and their files: those given, or those that are there and are still about these stores."""
        if self.results is not None:
            found = {path: self.results / path.rpartition("/")[2] for path in (RESULTS, *BESIDE)}
        else:
            found = {
                p: self.remote.fetch(p, head, self.folder) for p in (RESULTS, *BESIDE) if head and p in there
            }
            if RESULTS not in found:
                return None, {}
        try:
            results = json.loads(found[RESULTS].read_bytes())
            same = matching_results(results, tasks)
        except (OSError, ValueError, KeyError, TypeError):
            msg = f"{found[RESULTS]} is not what `wif-store score --out` writes"
            raise PublishError(msg) from None
        if same:
            return results, {path: local_file(file) for path, file in found.items() if file.is_file()}
        if self.results is not None:
            msg = f"{found[RESULTS]} was measured on other stores: score these, or leave --results out"
            raise PublishError(msg)
        return None, {}


def local_file(path: Path) -> LocalFile:
    """A file with its size and SHA-256."""
    with path.open("rb") as file:
        return LocalFile(path, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _describe(staged: Staged) -> Published:
    top = f"{view_folder(staged.store.task)}/"
    size = sum(file.size for path, file in staged.files.items() if path.startswith(top))
    return Published(staged.store.manifest, size)


def _check_alike(tasks: Sequence[Published]) -> None:
    """The tasks of a dataset are one table: the same model, protocol and columns."""
    for task in tasks[1:]:
        for what, value in task.identity.items():
            if value != tasks[0].identity[what]:
                msg = (
                    f"{task.task} has {what} {value}, {tasks[0].task} has {tasks[0].identity[what]}: "
                    "tasks of one dataset must agree; choose another --repo"
                )
                raise PublishError(msg)
