"""``wif-store explain`` and ``wif-store quiz``: explanations in words, for a model or a person to read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wif_store.cli.progress import bar
from wif_store.errors import ScoreError, one_line, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wif_store.explainer.asking import Predictions
    from wif_store.scorer.features import Store
    from wif_store.store.reader import ActivationStore

StorePath = Annotated[str, typer.Argument(help="A store: a folder or a URL.", metavar="STORE")]


def explain_command(
    store: StorePath,
    method: Annotated[str, typer.Option(help="A linear method: sae-k, sae-logistic, logistic, lda.")] = (
        "logistic"
    ),
    layers: Annotated[
        str | None,
        typer.Option(help="The layers to choose from by validation. Default: all.", show_default=False),
    ] = None,
    sae: Annotated[
        str | None, typer.Option(help="For sae-k and sae-logistic: RELEASE/ID of SAELens, or a folder.")
    ] = None,
    sae_pool: Annotated[
        str, typer.Option(help="Which tokens' features: final, or the mean or max over all.")
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
    from wif_store.explainer.explanation import write_explanation
    from wif_store.explainer.findings import find
    from wif_store.extract.texts import token_texts
    from wif_store.format.layers import parse_layers
    from wif_store.scorer.probes import find_probe
    from wif_store.store.reader import open_store

    if sae is not None and find_probe(method).reads != "sae":
        msg = f"--sae is for probes of its features, and {method} is none: use sae-k, or leave --sae out"
        raise ScoreError(msg)
    opened = open_store(store)
    wanted = None if layers is None else parse_layers(layers, opened.layers)
    if wanted == ():
        msg = f"--layers {layers} names none of the layers; expected one at least"
        raise ScoreError(msg)
    _check_writable(out)
    texts = token_texts(opened.manifest.model, model)
    found = find(
        opened,
        texts,
        method,
        layers=wanted,
        sae=sae,
        sae_pool=sae_pool,  # type: ignore[arg-type]  # refused if it is none
        features=features,
        examples=examples,
    )
    _write(out, write_explanation(opened, found))
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
    from wif_store.explainer.asking import check
    from wif_store.explainer.explanation import read_explanation
    from wif_store.explainer.quiz import draw_questions, render_quiz
    from wif_store.store.reader import open_store

    opened, read = open_store(store), read_explanation(explanation)
    check([opened], [read])
    _check_writable(out)
    drawn = draw_questions(opened, questions, seed)
    model = str(opened.manifest.model.get("id", "the model"))
    _write(out, render_quiz(read.text, drawn, title=f"When is {model} right on {opened.task}?"))
    typer.echo(
        printable(
            f"{out}: {len(drawn)} questions; what it saves is read by\n"
            f"  wif-store score {store} --predictions quiz.csv --subset"
        )
    )


def predicted(
    opened: Sequence[ActivationStore],
    explanations: Sequence[str],
    predictor: str,
    questions: int | None,
    *,
    chat: bool,
) -> tuple[list[Predictions], dict[str, Any]]:
    """What a language model says of the test examples after it has read explanations.

    Args:
        opened: One store a task.
        explanations: Their files.
        predictor: The language model.
        questions: How many test examples of each store it is asked about; None for all.
        chat: Whether it is asked in its chat template.

    Returns:
        The predictions, and what must be written down for them to be repeated.
    """
    from wif_store.explainer.asking import PROTOCOL, Reader, check, predictions
    from wif_store.explainer.explanation import read_explanation
    from wif_store.explainer.quiz import draw_questions
    from wif_store.extract.engine import open_engine
    from wif_store.scorer.subset import on_subset

    read = [read_explanation(path) for path in explanations]
    check(opened, read)
    asked: list[Store] = list(opened)
    if questions is not None:
        asked = [
            on_subset(store, {one.id for one in draw_questions(store, questions, 0)}) for store in opened
        ]
    engine = open_engine(predictor, PROTOCOL, layers="0", sequence_layers="none", chat=chat)
    with bar(f"asking {predictor}", "questions") as told:
        found = predictions(asked, read, Reader(str(engine.model["id"]), engine.extract, told))
    hashes = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in explanations}
    model = {name: engine.model[name] for name in ("id", "revision", "dtype", "chat_template")}
    return found, {"explanations_sha256": hashes, "predictor": model, "questions": questions}


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
