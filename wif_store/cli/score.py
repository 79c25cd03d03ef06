"""The ``score`` command."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wif_store.errors import ScoreError

if TYPE_CHECKING:
    from wif_store.store.reader import ActivationStore


def score_command(
    stores: Annotated[
        list[str],
        typer.Argument(help="Stores, folders of stores, or Hub datasets (OWNER/NAME).", metavar="STORE..."),
    ],
    task: Annotated[list[str] | None, typer.Option(help="Only this task; repeat for more.")] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            help="paper-logistic, logistic, mean-difference, lda, mean-token, attention, or module:factory "
            "of a scikit-learn estimator; repeat for more. [default: logistic]"
        ),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="0-based blocks, such as 0,4,9-12. Default: all.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Fits with train and validation divided anew.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results.json, results.md and figure.png.", file_okay=False)
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Score this CSV, JSONL or Parquet of id and score instead of a probe."),
    ] = None,
    compare: Annotated[str | None, typer.Option(help="'paper': the published Figure 1 beside ours.")] = None,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Also train on each task, test on all.")
    ] = False,
    confidence: Annotated[float, typer.Option(help="Of the intervals; the level of the verdicts.")] = 0.999,
    bootstrap: Annotated[int, typer.Option(min=0, help="Draws for a bootstrap interval; 0 for none.")] = 0,
) -> None:
    """Measure how well probes, or your own scores, predict failure."""
    from wif_store.scorer.report import sections, to_text, write
    from wif_store.scorer.run import evaluate, score
    from wif_store.store.reader import open_store

    if compare not in (None, "paper"):
        msg = f"--compare {compare!r} is not known; expected 'paper'"
        raise ScoreError(msg)
    if predictions is not None and (probe or layers or transfer or seeds != 1):
        msg = "--predictions stands in for a probe; leave out --probe, --layers, --seeds and --transfer"
        raise ScoreError(msg)
    opened = _of_tasks([open_store(path) for given in stores for path in find_stores(given)], task)
    if predictions is not None:
        results = evaluate(predictions, opened, confidence, bootstrap_draws=bootstrap)
    else:
        if str(Path.cwd()) not in sys.path:  # a console script does not look for modules here by itself
            sys.path.insert(0, str(Path.cwd()))
        results = score(
            opened,
            probe or "logistic",
            parse_layers(layers),
            seeds,
            confidence,
            bootstrap_draws=bootstrap,
            transfer=transfer,
        )
    typer.echo(to_text(sections(results, paper=compare is not None)))
    if out is not None:
        command = shlex.join(["wif-store", *sys.argv[1:]])
        write(results, out, command=command, paper=compare is not None)
        typer.echo(f"\nWrote results.json, results.md and figure.png to {out}")


def find_stores(given: str) -> list[str]:
    """Return the stores a path, an fsspec URL or a Hub dataset (``OWNER/NAME``) stands for.

    Raises:
        ScoreError: if it holds none.
    """
    if given.rstrip("/").endswith(".zarr") or (Path(given) / "manifest.json").is_file():
        return [given]
    if "://" in given or (re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", given) and not Path(given).exists()):
        return _remote_stores(given if "://" in given else f"hf://datasets/{given}")
    found = sorted(str(path) for path in Path(given).glob("**/*.zarr"))
    if not found:
        msg = f"{given} holds no store; expected a .zarr folder, a folder of them, or a dataset OWNER/NAME"
        raise ScoreError(msg)
    return found


def parse_layers(text: str | None) -> list[int] | None:
    """Parse ``0,4,9-12``.

    Raises:
        ScoreError: if it cannot be parsed.
    """
    if text is None:
        return None
    chosen: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if ends is None or (ends[2] and int(ends[2]) < int(ends[1])):
            msg = f"--layers {text!r} cannot be read at {part!r}; expected 0-based blocks such as 0,4,9-12"
            raise ScoreError(msg)
        chosen += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return chosen


def _remote_stores(url: str) -> list[str]:
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(url)
        found = sorted(str(path) for path in files.glob(f"{root.rstrip('/')}/**/*.zarr/manifest.json"))
    except (OSError, ValueError, ImportError) as error:
        msg = f"{url} cannot be listed ({type(error).__name__}); check the name, the network and your access"
        raise ScoreError(msg) from error
    if not found:
        msg = f"{url} holds no store; expected at least one .zarr folder with a manifest.json"
        raise ScoreError(msg)
    return [files.unstrip_protocol(path.removesuffix("/manifest.json")) for path in found]


def _of_tasks(opened: list[ActivationStore], tasks: list[str] | None) -> list[ActivationStore]:
    if not tasks:
        return opened
    held = [store.task for store in opened]
    if lacking := [name for name in tasks if name not in held]:
        msg = f"no store of task {lacking[0]!r}; found {', '.join(held)}"
        raise ScoreError(msg)
    return [store for store in opened if store.task in tasks]
