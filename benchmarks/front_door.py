"""How long does it take from an empty folder to the figure of the quickstart?

    python -m benchmarks.front_door [--store STORE] [--python FILE] [--notebook FILE] [--json FILE]

A store is published on a Hub on the loopback interface, under the name that the notebook reads. Then, in an
empty folder: a new environment is made, pip installs the wheel of this checkout with ``datasets`` and the
kernel of a notebook, and ``examples/quickstart.ipynb`` runs as it stands, with nobody logged in. The wheel
is built beforehand, and pip downloads all that it installs. With ``--python`` an environment that is there
already is taken, and nothing is installed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import workload
from benchmarks.tables import Table, Working, say, write_json
from tests.support.hub import Hub
from wif_store.tasks import get_task

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

ROOT = Path(__file__).parents[1]
REPO = "whyitfailed/gemma2-acts"
BESIDE = ("datasets", "ipykernel", "nbclient")
"""What the notebook needs beside the wheel; a researcher has the last two."""
STEPS = ("make an environment", "install", "run the notebook")
WHEEL = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]


def made_up_store(folder: Path, per_class: int) -> Path:
    """A store of the shape of Gemma 3 270M."""
    source = workload.made_up_rows(folder, 2 * per_class)
    engine = workload.keep_all(workload.made_up_engine(source, sequence_layers=1, tokens=2), source)
    workload.build(get_task("winogrande"), source, engine, folder / "winogrande.zarr")
    return folder / "winogrande.zarr"


def timed(
    what: str, *command: str | os.PathLike[str], folder: Path, env: Mapping[str, str] | None = None
) -> float:
    """Seconds that a command takes in a folder.

    Raises:
        RuntimeError: If it fails; says the end of what it wrote.
    """
    started = time.perf_counter()
    with Working(what):
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"{what} ended with {done.returncode}: {(done.stderr or done.stdout)[-1000:]}"
        raise RuntimeError(msg)
    return time.perf_counter() - started


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, help="what is published; default: one that is made up")
    parser.add_argument("--per-class", type=int, default=1000, help="of a store that is made up")
    parser.add_argument("--python", type=Path, help="that of an environment that has all that is needed")
    parser.add_argument("--notebook", type=Path, default=ROOT / "examples" / "quickstart.ipynb")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    say("front_door: two to five minutes on two cores, by the network")
    with tempfile.TemporaryDirectory() as name, Hub(Path(name, "hub")) as hub:
        folder = Path(name)
        store = options.store or made_up_store(folder, options.per_class)
        push = (sys.executable, "-m", "wif_store.cli.app", "push", str(store.resolve()), "--repo", REPO)
        timed("publishing", *push, folder=folder, env=hub.environ(PYTHONPATH=str(ROOT)))
        hub.log.clear()
        empty = folder / "empty"
        empty.mkdir()
        python = options.python.absolute() if options.python else empty / ".venv" / "bin" / "python"
        steps: dict[str, float | None] = dict.fromkeys(STEPS)
        if options.python is None:
            timed("building the wheel", *WHEEL, str(folder / "dist"), folder=ROOT)
            [built] = folder.glob("dist/*.whl")
            make = (sys.executable, "-m", "venv", python.parents[1])
            install = (python, "-m", "pip", "install", "--quiet", "--no-cache-dir", built, *BESIDE)
            for step, command in zip(STEPS, (make, install), strict=False):
                steps[step] = timed(step, *command, folder=empty)
        notebook = shutil.copy(options.notebook, empty)
        run = (python.with_name("jupyter-execute"), "--inplace", notebook)
        own = {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
        env = {name: value for name, value in hub.environ(None, **own).items() if name != "PYTHONPATH"}
        steps[STEPS[-1]] = timed(STEPS[-1], *run, folder=empty, env=env)
        say(f"  {hub.log.sent() / 1e6:.1f} MB came from the Hub")
        table = Table("From an empty folder to the last cell", "step", "s", "asked")
        for step, seconds in steps.items():
            table.add(step, seconds, "")
        taken = [seconds for seconds in steps.values() if seconds is not None]
        table.add("together", sum(taken) if len(taken) == len(STEPS) else None, "<= 180")
    write_json(options.json, [table])


if __name__ == "__main__":
    main()
