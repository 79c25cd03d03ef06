"""``wif-store push`` and ``wif-store pull`` as a person sees them: a plan, progress bars, what came of it."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from wif_store.errors import PublishError
from wif_store.hub.pull import Pull
from wif_store.hub.push import Progress, Push, Target
from wif_store.hub.repo import RemoteDataset
from wif_store.hub.staging import stage
from wif_store.format.schema import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wif_store.hub.push_plan import Plan
    from wif_store.hub.staging import Staged

DEFAULT_STORES: Final = "stores/gemma-2-2b"


def push_stores(
    stores: Sequence[Path],
    repo: str,
    target: Target,
    *,
    dry_run: bool = False,
    results: Path | None = None,
) -> None:
    """Verify, export and publish stores; with ``dry_run`` only say what would be done."""
    console = Console(stderr=True)
    remote = _remote(repo)
    folders = list(stores) or default_stores(Path(DEFAULT_STORES))
    if target.create_pr and (target.tag or target.revision != "main"):
        msg = "--create-pr goes with neither --revision nor --tag: a pull request is tagged once it is merged"
        raise PublishError(msg)
    if not dry_run:
        with console.status("asking the Hub"):
            remote.check_token()
    staged = _stage(folders, console)
    with _bars(console) as bars:
        push = Push(remote, staged, target, results, _Shown(console, bars))
        if dry_run:
            push.progress.planned(push.plan())
            return
        pushed = push.run()
    if pushed.uploaded:
        console.print(f"published: {pushed.url} at {pushed.commit[:8]}", soft_wrap=True, highlight=False)
    else:
        console.print(f"nothing to upload: {pushed.url} holds these stores", soft_wrap=True, highlight=False)


def default_stores(folder: Path) -> list[Path]:
    """Every finished store of the default model.

    Raises:
        PublishError: If there is none.
    """
    found = sorted(path.parent for path in folder.glob(f"*/*.zarr/{MANIFEST}"))
    if not found:
        msg = f"no finished store under {folder}: name one, or build it with `wif-store build`"
        raise PublishError(msg)
    return found


def pull_stores(repo: str, tasks: Sequence[str], layers: str | None, revision: str, out: Path | None) -> None:
    """Fetch and verify stores."""
    console = Console(stderr=True)
    remote, wanted = _remote(repo), parse_layers(layers)
    with console.status("asking the Hub"):
        pull = Pull.open(remote, revision)
        if not pull.tasks():
            pull.check_task("any task")
    for task in tasks:
        pull.check_task(task)
    for task in tasks or pull.tasks():
        folder = (out or Path("stores", *repo.split("/"))) / f"{task}.zarr"
        with _bars(console) as bars:
            line = bars.add_task(f"{task}: fetching", total=None)

            def fetched(done: int, total: int, bars: Bars = bars, line: int = line) -> None:
                bars.update(line, completed=done, total=total)  # type: ignore[arg-type]

            pulled = pull.pull(task, folder, wanted, fetched)
        what = (
            f"{pulled.fetched / 1e6:.1f} MB fetched and verified"
            if pulled.fetched
            else "here already, verified"
        )
        console.print(f"{pulled.path}: {what}", soft_wrap=True, highlight=False)


def parse_layers(text: str | None) -> list[int] | None:
    """``5,10`` -> [5, 10]; None for all."""
    if text is None or text == "all":
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        msg = f"--layers is {text!r}; expected all, or 0-based blocks as in 5,10"
        raise PublishError(msg)
    return sorted({int(part) for part in parts})


def _remote(repo: str) -> RemoteDataset:
    from huggingface_hub.utils.logging import set_verbosity
    from huggingface_hub.utils.tqdm import disable_progress_bars

    # One bar for the whole, not one for each file; one line where it fails, not two for each try. The
    # client's lines also hold signed addresses.
    disable_progress_bars()
    set_verbosity(logging.ERROR)
    return RemoteDataset(repo)


def _stage(folders: Sequence[Path], console: Console) -> list[Staged]:
    staged: dict[str, Staged] = {}
    for folder in folders:
        with console.status(f"{folder}: verifying and exporting"):
            made = stage(folder)
        if made.store.task in staged:
            other = staged[made.store.task].store.name
            msg = f"{folder} and {other} are both stores of {made.store.task}: name one of them"
            raise PublishError(msg)
        staged[made.store.task] = made
    return list(staged.values())


@contextmanager
def _bars(console: Console) -> Iterator[Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        yield bars


class _Shown(Progress):
    """Prints a plan and draws a push as a bar."""

    def __init__(self, console: Console, bars: Bars) -> None:
        self._console, self._bars = console, bars
        self._line = bars.add_task("asking the Hub", total=None)

    def planned(self, plan: Plan) -> None:
        """Show what is there, what is missing and what goes."""
        lines = [f"the dataset will have: {', '.join(plan.tasks)}"]
        folders: dict[str, list[int]] = {}
        for path in plan.missing:
            folders.setdefault("/".join(path.split("/")[:2]), []).append(plan.wanted[path].size)
        lines += [f"  {_size(sum(sizes)):>12}  {name}" for name, sizes in sorted(folders.items())]
        whole = sum(file.size for file in plan.wanted.values())
        lines.append(
            f"to upload: {_size(plan.bytes)} of {_size(whole)}; to remove: {len(plan.deleted)} files"
        )
        self._console.print("\n".join(lines), soft_wrap=True, highlight=False)

    def uploaded(self, done: int, total: int) -> None:
        """Show bytes."""
        self._bars.update(self._line, completed=done, total=total)

    def phase(self, name: str) -> None:
        """Show what is being done."""
        self._bars.update(self._line, description=name)


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 10**5 else f"{size / 1e3:,.1f} kB"
