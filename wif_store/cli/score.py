"""The ``score`` command."""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wif_store.cli import choices
from wif_store.cli.as_json import AsJson, print_json
from wif_store.errors import ScoreError, one_line, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wif_store.scorer.results import Results
    from wif_store.store.reader import ActivationStore


def score_command(
    stores: Annotated[
        list[str],
        typer.Argument(help="Stores, folders of stores, or Hub datasets (OWNER/NAME).", metavar="STORE..."),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(help="Only this task; repeat for more.", autocompletion=choices.tasks),
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            help="paper-logistic, logistic, mean-difference, lda, mean-token, attention, ensemble, "
            "sae-logistic, sae-k, or module:factory of a scikit-learn estimator; repeat for more. [default: "
            "logistic]",
            autocompletion=choices.probes,
        ),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="0-based layers, such as 0,4,9-12. Default: all.", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Fits with train and validation divided anew.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for results.json, results.md, figure.png, report.html and scores.parquet.",
            file_okay=False,
        ),
    ] = None,
    save_probes: Annotated[
        bool, typer.Option("--save-probes", help="Save the weights of linear probes below --out.")
    ] = False,
    predictions: Annotated[
        list[str] | None,
        typer.Option(
            help="A CSV, JSONL or Parquet of id and score, higher where success is likelier; repeat for more."
        ),
    ] = None,
    subset: Annotated[
        bool, typer.Option("--subset", help="The predictions are for some of the test examples only.")
    ] = False,
    explanation: Annotated[
        list[str] | None,
        typer.Option(
            help="An explanation in words that --predictor reads; repeat for more tasks, and for controls."
        ),
    ] = None,
    predictor: Annotated[
        str | None,
        typer.Option(
            help="The language model that reads it; any that build takes. Default: gemma3-270m",
            show_default=False,
        ),
    ] = None,
    predictor_chat: Annotated[
        bool, typer.Option("--predictor-chat", help="Ask it in its chat template.")
    ] = False,
    questions: Annotated[
        int | None,
        typer.Option(
            min=2, help="Ask it about so many test examples, and measure all on these. Default: all."
        ),
    ] = None,
    sae: Annotated[
        str | None,
        typer.Option(
            help="A sparse autoencoder for sae-logistic and sae-k: RELEASE/ID of SAELens, or a folder; "
            "{layer} in it is the layer."
        ),
    ] = None,
    sae_pool: Annotated[
        choices.Pool,
        typer.Option(help="Which tokens' features: the final one's, or the mean or max over all."),
    ] = "final",
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="Where to read answers that the model wrote: final_token, prompt_end or a share of the "
            "answer, such as 0.25; repeat to compare. [default: final_token]"
        ),
    ] = None,
    compare: Annotated[
        choices.Compare | None, typer.Option(help="The published Figure 1 beside ours.")
    ] = None,
    cross_task: Annotated[
        bool, typer.Option("--cross-task", help="Also train on each task, test on all.")
    ] = False,
    confidence: Annotated[float, typer.Option(help="Of the intervals; the level of the verdicts.")] = 0.999,
    bootstrap: Annotated[int, typer.Option(min=0, help="Draws for a bootstrap interval; 0 for none.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure how well probes, or your own scores, predict failure."""
    from wif_store.scorer.positions import draw_positions, positions
    from wif_store.scorer.report import sections
    from wif_store.scorer.run import plan, score
    from wif_store.scorer.tables import to_text
    from wif_store.store.reader import open_store

    if (predictions or explanation) and not probe and (layers or cross_task or seeds != 1):
        msg = "--layers, --seeds and --cross-task are for probes: add --probe, or leave them out"
        raise ScoreError(msg)
    if save_probes and out is None:
        msg = "--save-probes needs a folder to save them in: add --out FOLDER"
        raise ScoreError(msg)
    if out is not None:
        check_writable(out)
    opened = _of_tasks([open_store(path) for given in stores for path in find_stores(given)], task)
    sites = list(dict.fromkeys(site or ["final_token"]))
    given: list[Any] = list(predictions or [])
    probes = probe or _default_probes([*given, *(explanation or [])], sae)
    # What is wrong is said before anything is scored.
    for one in sites:
        plan(
            opened,
            probes,
            layers,
            seeds,
            confidence,
            site=one,
            sae=sae,
            sae_pool=sae_pool,
            bootstrap_draws=bootstrap,
        )
    asked: dict[str, Any] = {}
    if explanation:
        from wif_store.explainer.run import ask

        found, asked = ask(
            opened,
            explanation,
            predictor or "gemma3-270m",
            questions=questions,
            chat=predictor_chat,
            progress=True,
        )
        given += found
    elif questions is not None or predictor or predictor_chat:
        msg = "--predictor, --predictor-chat and --questions are for --explanation: add it, or leave them out"
        raise ScoreError(msg)
    # All of them before anything is printed: the layers that are asked for may not be there at one of them.
    every = {
        one: score(
            opened,
            probes,
            layers,
            seeds,
            confidence,
            predictions=given,
            subset=subset or questions is not None,
            site=one,
            sae=sae,
            sae_pool=sae_pool,
            bootstrap_draws=bootstrap,
            cross_task=cross_task,
        )
        for one in sites
    }
    every = {one: replace(scored, settings={**scored.settings, **asked}) for one, scored in every.items()}
    for one, results in every.items():
        if len(sites) > 1 and not as_json:
            typer.echo(f"\nread at {printable(one)}\n")
        if not as_json:
            typer.echo(printable(to_text(sections(results, paper=compare is not None))))
        if out is not None:
            folder = out if len(sites) == 1 else out / one
            write_results(results, folder, paper=compare is not None, probes=save_probes, quiet=as_json)
    if len(sites) > 1:
        if not as_json:
            typer.echo(printable("\n" + to_text([positions(every)])))
        if out is not None:
            with _writing(out):
                draw_positions(every, out / "positions.png")
            typer.echo(printable(f"\nWrote positions.png to {out}"), err=as_json)
    if as_json:
        print_json("score", {"sites": {one: results.to_json() for one, results in every.items()}})


def _default_probes(predictions: list[Any], sae: str | None) -> list[str] | None:
    if sae:
        return ["logistic", "sae-logistic", "sae-k"]
    return None if predictions else ["logistic"]


def write_results(
    results: Results, folder: Path, *, paper: bool = False, probes: bool = False, quiet: bool = False
) -> None:
    """Write what a run found into a folder, and say so; on standard error if quiet."""
    from wif_store.scorer.files import PROBES, save_probes, write

    with _writing(folder):
        names = write(results, folder, command=shlex.join(["wif-store", *sys.argv[1:]]), paper=paper)
        typer.echo(printable(f"\nWrote {', '.join(names[:-1])} and {names[-1]} to {folder}"), err=quiet)
        if probes:
            count = len(save_probes(results, folder / PROBES))
            of = ", ".join(dict.fromkeys(one.probe for one in results.weights))
            typer.echo(printable(f"Saved {count} probes ({of}) to {folder / PROBES}"), err=quiet)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"--out {out} could not be written ({one_line(error)}): make room, or choose another"
        raise ScoreError(msg) from error


def check_writable(folder: Path) -> None:
    """Refuse a folder that results cannot be written to, before anything is scored.

    Raises:
        ScoreError: saying why.
    """
    from wif_store.scorer.files import FILES, STEERING

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for name in (*FILES, STEERING):
            if (folder / name).exists():
                (folder / name).open("ab").close()
    except OSError as error:
        msg = f"--out {folder} cannot be written ({error.strerror}): make it writable, or choose another"
        raise ScoreError(msg) from error


def find_stores(given: str) -> list[str]:
    """Return the stores a path, an fsspec URL or a Hub dataset (``OWNER/NAME``) stands for.

    Raises:
        ScoreError: if it holds none.
    """
    if given.rstrip("/").endswith(".zarr") or (Path(given) / "manifest.json").is_file():
        return [given]
    if "://" in given:
        return _remote_stores(given)
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", given) and not Path(given).exists():
        return _remote_stores(f"hf://datasets/{given}", f"there is no folder {given}, and ")
    found = sorted(str(path) for path in Path(given).glob("**/*.zarr"))
    if not found:
        msg = f"{given} holds no store; expected a .zarr folder, a folder of them, or a dataset OWNER/NAME"
        raise ScoreError(msg)
    return found


def _remote_stores(url: str, first: str = "") -> list[str]:
    """Return the stores below a URL; an error begins with ``first``."""
    import fsspec

    from wif_store.storage.hub_client import dataset_of, explained

    try:
        files, root = fsspec.core.url_to_fs(url)
        found = sorted(str(path) for path in files.glob(f"{root.rstrip('/')}/**/*.zarr/manifest.json"))
    except Exception as error:
        # fsspec's clients raise many kinds, and the Hub's has kinds of its own.
        why = f"{url} cannot be listed ({one_line(error)}): check the name, the network and your access"
        if url.startswith("hf://"):
            why = explained(error, dataset_of(url))
        raise ScoreError(first + why) from error
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
