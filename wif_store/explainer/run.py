"""Explanations from the outside: written of a store, put to a person, and asked of a language model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wif_store.errors import ScoreError
from wif_store.explainer.asking import PROTOCOL, Reader, check, predictions
from wif_store.explainer.explanation import read_explanation, write_explanation
from wif_store.explainer.findings import Found, find
from wif_store.explainer.quiz import draw_questions, render_quiz
from wif_store.format.layers import parse_layers
from wif_store.progress import telling
from wif_store.scorer.probes import find_probe

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from wif_store.explainer.asking import Predictions
    from wif_store.progress import Told
    from wif_store.scorer.features import Store
    from wif_store.scorer.sae_features import Pool
    from wif_store.store.reader import ActivationStore


@dataclass(frozen=True, slots=True)
class Explained:
    """What a method found on the train split.

    Attributes:
        text: It in words: a head in YAML, and Markdown.
        found: It in numbers.
    """

    text: str
    found: Found


def explain(
    store: ActivationStore,
    method: str = "logistic",
    *,
    layers: str | None = None,
    sae: str | None = None,
    sae_pool: Pool = "final",
    features: int = 8,
    examples: int = 3,
    model: str | None = None,
) -> Explained:
    """Write in words what a linear method found on the train split.

    It shows tokens as text by the model's own tokenizer, so it needs ``wif-store[build]``.

    Args:
        store: An open store.
        method: A linear probe of final tokens or of an SAE's features.
        layers: The layers to choose from by validation, such as ``0,4,9-12``; None for all.
        sae: ``RELEASE/ID`` of SAELens or a folder, for a probe of its features.
        sae_pool: Which tokens' features these are.
        features: How many features are explained, at most.
        examples: How many train examples are shown of each.
        model: Where the store's model is, for its tokenizer, if it was a local one.

    Raises:
        ScoreError: If the method is not linear, or found nothing.
        SaeError: If the SAE cannot be used.
        LayersError: If the layers cannot be read.
        ModelError: If the tokenizer cannot be had.

    Example::

        from pathlib import Path

        Path("explanation.md").write_text(wif_store.explain(store, layers="9").text)
    """
    from wif_store.extract.texts import token_texts

    if sae is not None and find_probe(method).reads != "sae":
        msg = f"--sae is for probes of its features, and {method} is none: use sae-k, or leave --sae out"
        raise ScoreError(msg)
    wanted = None if layers is None else parse_layers(layers, store.layers)
    if wanted == ():
        msg = f"--layers {layers} names none of the layers; expected one at least"
        raise ScoreError(msg)
    texts = token_texts(store.manifest.model, model)
    found = find(
        store,
        texts,
        method,
        layers=wanted,
        sae=sae,
        sae_pool=sae_pool,
        features=features,
        examples=examples,
    )
    return Explained(write_explanation(store, found), found)


def quiz(
    store: ActivationStore, explanation: str | os.PathLike[str], questions: int = 40, seed: int = 0
) -> tuple[str, list[str]]:
    """Make a page on which a person reads an explanation and says which answers are right.

    Args:
        store: The store whose test examples are asked about.
        explanation: The Markdown file that the person reads.
        questions: How many test examples are asked about, at most.
        seed: Fixes which, and their order.

    Returns:
        The page, and the ids of the examples on it. It saves ``quiz.csv``, which :func:`evaluate` reads.

    Raises:
        ScoreError: If the explanation cannot be read, is of another task, or quotes a test example.

    Example::

        page, ids = wif_store.quiz(store, "explanation.md", questions=40)
    """
    read = read_explanation(explanation)
    check([store], [read])
    drawn = draw_questions(store, questions, seed)
    model = str(store.manifest.model.get("id", "the model"))
    page = render_quiz(read.text, drawn, title=f"When is {model} right on {store.task}?")
    return page, [one.id for one in drawn]


def ask(
    stores: Sequence[ActivationStore],
    explanations: Sequence[str | os.PathLike[str]],
    predictor: str,
    *,
    questions: int | None = None,
    chat: bool = False,
    progress: Told | bool | None = None,
) -> tuple[list[Predictions], dict[str, Any]]:
    """Ask a language model that has read explanations which answers are right.

    Args:
        stores: One store a task.
        explanations: Their files.
        predictor: The language model, any that :func:`build` takes.
        questions: How many test examples of each store it is asked about; None for all.
        chat: Whether it is asked in its chat template.
        progress: Whether a bar is shown, or who is told how it goes. None shows a bar in a notebook alone.

    Returns:
        The predictions, which :func:`evaluate` takes, and what must be written down for them to be repeated.

    Raises:
        ScoreError: If an explanation cannot be read, is of another task, or quotes a test example.
        ModelError: If the language model cannot be used.

    Example::

        predictions, record = wif_store.ask([store], ["explanation.md"], "gemma3-270m", questions=200)
        results = wif_store.evaluate(predictions, store, subset=True)
    """
    from wif_store.extract.engine import open_engine
    from wif_store.scorer.subset import on_subset

    read = [read_explanation(path) for path in explanations]
    check(stores, read)
    asked: list[Store] = list(stores)
    if questions is not None:
        asked = [
            on_subset(store, {one.id for one in draw_questions(store, questions, 0)}) for store in stores
        ]
    engine = open_engine(predictor, PROTOCOL, layers="0", sequence_layers="none", chat=chat)
    with telling(progress, f"asking {predictor}", "questions") as told:
        reader = Reader(
            str(engine.model["id"]), engine.extract, lambda done, of: told(f"asking {predictor}", done, of)
        )
        found = predictions(asked, read, reader)
    hashes = {str(path): hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in explanations}
    model = {name: engine.model[name] for name in ("id", "revision", "dtype", "chat_template")}
    return found, {"explanations_sha256": hashes, "predictor": model, "questions": questions}
