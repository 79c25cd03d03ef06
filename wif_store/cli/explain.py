"""``wif-store explain`` and ``wif-store quiz``: explanations in words, for a model or a person to read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wif_store.cli import choices
from wif_store.errors import ScoreError, one_line, printable

StorePath = Annotated[str, typer.Argument(help="A store: a folder or a URL.", metavar="STORE")]


def explain_command(
    store: StorePath,
    method: Annotated[
        str,
        typer.Option(
            help="A linear method: sae-k, sae-logistic, logistic, lda.", autocompletion=choices.probes
        ),
    ] = "logistic",
    layers: Annotated[
        str | None,
        typer.Option(help="The layers to choose from by validation. Default: all.", show_default=False),
    ] = None,
    sae: Annotated[
        str | None, typer.Option(help="For sae-k and sae-logistic: RELEASE/ID of SAELens, or a folder.")
    ] = None,
    sae_pool: Annotated[
        choices.Pool,
        typer.Option(help="Which tokens' features: the final one's, or the mean or max over all."),
    ] = "final",
    features: Annotated[int, typer.Option(min=1, help="Features to explain, at most.")] = 8,
    examples: Annotated[int, typer.Option(min=1, help="Train examples to show of each.")] = 3,
    model: Annotated[
        str | None, typer.Option(help="Where the store's model is, for its tokenizer, if it was a local one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The Markdown file to write.", dir_okay=False)] = Path(
        "explanation.md"
    ),
) -> None:
    """Write in words what a method found on the train split."""
    from wif_store.explainer.run import explain
    from wif_store.store.reader import open_store

    opened = open_store(store)
    _check_writable(out)
    explained = explain(
        opened,
        method,
        layers=layers,
        sae=sae,
        sae_pool=sae_pool,
        features=features,
        examples=examples,
        model=model,
    )
    found = explained.found
    _write(out, explained.text)
    typer.echo(
        printable(
            f"{out}: what {found.method} found at layer {found.layer} (validation AUROC "
            f"{found.validation_auroc:.3f}), findings: {len(found.findings)}"
        )
    )


def quiz_command(
    store: StorePath,
    explanation: Annotated[Path, typer.Option(help="The Markdown file that the person reads.")],
    questions: Annotated[int, typer.Option(min=2, help="Test examples to ask about.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Fixes which, and their order.")] = 0,
    out: Annotated[Path, typer.Option(help="The page to write.", dir_okay=False)] = Path("quiz.html"),
) -> None:
    """Write a page on which a person says which answers are right."""
    from wif_store.explainer.run import quiz
    from wif_store.store.reader import open_store

    page, asked = quiz(open_store(store), explanation, questions, seed)
    _check_writable(out)
    _write(out, page)
    typer.echo(
        printable(
            f"{out}: {len(asked)} questions; what it saves is read by\n"
            f"  wif-store score {store} --predictions quiz.csv --subset"
        )
    )


def _check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is computed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        msg = f"--out {path} cannot be written ({one_line(error)}): choose another"
        raise ScoreError(msg) from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"--out {path} could not be written ({one_line(error)}): choose another"
        raise ScoreError(msg) from error
