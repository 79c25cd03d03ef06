"""What the tests of push and pull share."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi

from wif_store.hub.push import Progress, Pushed, Target
from wif_store.hub.push_run import Push
from wif_store.hub.repo import RemoteDataset
from wif_store.hub.staging import stage

if TYPE_CHECKING:
    from tests.support.hub import Hub

ROOT = Path(__file__).parents[2]
REPO = "whyitfailed/gemma2-acts"


def wif(
    hub: Hub, *args: object, token: str | None = "", cwd: Path = ROOT, **env: str
) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own that knows this Hub alone."""
    return subprocess.run(
        [sys.executable, "-m", "wif_store.cli.app", *map(str, args)],
        env=hub.environ(token, PYTHONPATH=str(ROOT), **env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def client(hub: Hub, script: str, cwd: Path | None = None, **env: str) -> Any:
    """Run a reader's script, which has nothing of ours; what it prints last, read as JSON."""
    script = f"import json, sys\n{script}\nassert 'wif_store' not in sys.modules"
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=hub.environ(**env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def dataset(hub: Hub, token: str = "", repo: str = REPO) -> RemoteDataset:
    """The dataset, as a client of this process sees it."""
    return RemoteDataset(repo, HfApi(endpoint=hub.endpoint, token=token or hub.token))


def push(
    hub: Hub, *stores: Path, target: Target | None = None, progress: Progress | None = None, **how: Any
) -> Pushed:
    """Push from this process."""
    staged = [stage(store) for store in stores]
    results = how.pop("results", None)
    return Push(dataset(hub, **how), staged, target or Target(), results, progress or Progress()).run()


def contents(hub: Hub, revision: str = "main") -> dict[str, str]:
    """The SHA-256 of every file of the dataset."""
    return {path: file.sha256 for path, file in hub.repo(REPO).commit_at(revision).files.items()}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
