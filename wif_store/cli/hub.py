"""``wif-store push`` and ``wif-store pull`` as a person sees them: a plan, progress bars, what came of it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from wif_store.errors import PublishError, printable
from wif_store.format.schema import MANIFEST
from wif_store.hub import pull, push
from wif_store.progress import bars, by_name, error_console, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wif_store.hub.push_plan import Plan

DEFAULT_STORES: Final = "stores/gemma-2-2b"


def push_stores(
    stores: Sequence[Path],
    repo: str | None,
    target: push.Target,
    *,
    dry_run: bool = False,
    results: Path | None = None,
) -> dict[str, Any]:
    """Verify, export and publish stores; with ``dry_run`` only say what would be done.

    Returns:
        What came of it: where it is seen, its commit, and how many bytes went; of a dry run, would go.
    """
    console = error_console()
    folders = list(stores) or default_stores(Path(DEFAULT_STORES))
    with _bars(console) as lines:
        shown = _Shown(console, lines)
        if dry_run:
            plan = push.plan_push(folders, repo, target, results=results, progress=shown)
            shown.planned(plan)
            return {"dry_run": True, "url": None, "commit": None, "uploaded": plan.bytes}
        pushed = push.push_stores(folders, repo, target, results=results, progress=shown)
    if pushed.uploaded:
        say(console, f"published: {pushed.url} at {pushed.commit[:8]}")
    else:
        say(console, f"nothing to upload: {pushed.url} holds these stores")
    return {"dry_run": False, **asdict(pushed)}


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


def pull_stores(
    repo: str, tasks: Sequence[str], layers: str, revision: str, out: Path | None
) -> list[pull.Pulled]:
    """Fetch and verify stores."""
    console = error_console()
    with _bars(console) as shown:
        told = by_name(shown, "asking the Hub")
        pulled = pull.pull_dataset(
            repo,
            tasks,
            layers,
            revision,
            out,
            lambda task, done, total: told(f"{task}: fetching", done, total),
        )
    for store in pulled:
        fetched = f"{store.fetched / 1e6:.1f} MB fetched and verified"
        say(console, f"{store.path}: {fetched if store.fetched else 'here already, verified'}")
    return pulled


@contextmanager
def _bars(console: Console) -> Iterator[Bars]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with bars(console, *columns, unit="MB", scale=10**6, transient=True) as shown:
        yield shown


class _Shown(push.Progress):
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
        every = sum(file.size for file in plan.wanted.values())
        lines.append(
            f"to upload: {_size(plan.bytes)} of {_size(every)}; to remove: {len(plan.deleted)} files"
        )
        say(self._console, "\n".join(lines))

    def uploaded(self, done: int, total: int) -> None:
        """Show bytes."""
        self._bars.update(self._line, completed=done, total=total)

    def phase(self, name: str) -> None:
        """Show what is being done."""
        if self._bars.disable:
            say(self._console, name)
        self._bars.update(self._line, description=printable(name))


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 10**5 else f"{size / 1e3:,.1f} kB"
