"""Scores that someone else computed: read from a file, held against the test split."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wif_store.errors import ScoreError, names_in_line, one_line
from wif_store.format.schema import SPLITS
from wif_store.scorer.probes import check_scores, is_labels
from wif_store.tasks.files import read_rows, where

if TYPE_CHECKING:
    from wif_store.scorer.features import Store
    from wif_store.scorer.stats import Floats

Predictions = str | PathLike[str] | Mapping[str, float]
"""A file with the columns ``id`` and ``score``, or a mapping of the two, such as a pandas Series by id."""


@dataclass(frozen=True, slots=True)
class StorePart:
    """The scores of one store's test examples, in its order."""

    scores: Floats
    notes: tuple[str, ...]


def read_predictions(predictions: Predictions) -> tuple[str, dict[str, float]]:
    """Return the name of the method, empty if it has none, and its score for each example id.

    Raises:
        ScoreError: if the file cannot be read, lacks a column, gives an id twice, or holds a score
            that is no finite number.
    """
    if isinstance(predictions, str | PathLike):
        path = Path(predictions)
        name, rows = path.stem, list(_read(path))
    elif isinstance(predictions, Mapping) or _is_series(predictions):
        name = str(getattr(predictions, "name", None) or "")
        rows = [(str(i), score, f"id {i!r}") for i, score in predictions.items()]
    else:
        msg = (
            f"predictions are a {type(predictions).__name__}; expected a file, a mapping of example id to "
            "score, or a pandas Series whose index is the id"
        )
        raise ScoreError(msg)
    who = f"predictions {name!r}" if name else "predictions"
    if twice := [i for i, count in Counter(i for i, _, _ in rows).items() if count > 1]:
        msg = f"{who} give {_named(twice)} more than once; expected each test id once"
        raise ScoreError(msg)
    return name, {i: _finite(score, f"{who}, {at}") for i, score, at in rows}


def split_by_store(scores: Mapping[str, float], stores: Sequence[Store], name: str) -> list[StorePart]:
    """Divide scores among the stores, each of whose test examples must have exactly one.

    Raises:
        ScoreError: if ids are missing, unknown or of another split, or the scores of a task are all
            equal; the message names the task and the first such ids.
    """
    homes = {
        name: (number, split)
        for number, store in enumerate(stores)
        for split in SPLITS
        for name in store.column("id", split).tolist()
    }
    tasks = ", ".join(store.task for store in stores)
    if unknown := [i for i in scores if i not in homes]:
        msg = f"predictions {name!r} hold {_named(unknown)}, not in {tasks}; score the test ids only"
        raise ScoreError(msg)
    if early := [i for i in scores if homes[i][1] != "test"]:
        split = homes[early[0]][1]
        msg = f"predictions {name!r} hold {_named(early)} of the {split} split; score the test ids only"
        raise ScoreError(msg)
    parts = []
    for store in stores:
        ids = store.column("id", "test").tolist()
        who = f"predictions {name!r} for task {store.task!r}"
        if missing := [i for i in ids if i not in scores]:
            msg = (
                f"{who} lack {_named(missing)} of {len(ids)} test examples; give every test id a score, or "
                "pass --subset"
            )
            raise ScoreError(msg)
        values = np.array([scores[i] for i in ids], dtype=np.float64)
        notes: tuple[str, ...] = ()
        if is_labels(values):
            notes = ("labels, not scores: the AUROC is their balanced accuracy; probabilities rank finer",)
        else:
            check_scores(values, who)
        parts.append(StorePart(values, notes))
    return parts


def _read(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield of every row its id, its score and what an error calls it."""
    if not path.exists():
        msg = f"there is no predictions file {path}; give a .csv, .jsonl or .parquet with id and score"
        raise ScoreError(msg)
    try:
        for number, row in read_rows(path):
            if row.get("id") is None or "score" not in row:
                found = names_in_line(map(str, row)) or "nothing"
                msg = f"predictions {path}: {where(path, number)}: found {found}; expected id and score"
                raise ScoreError(msg)
            yield str(row["id"]), row["score"], where(path, number)
    except (OSError, ValueError) as error:
        msg = f"predictions {path}: {one_line(error)}; expected rows of id and score"
        raise ScoreError(msg) from error


def _is_series(thing: Any) -> bool:
    """Tell a pandas Series from a DataFrame and from arrays, without a need for pandas."""
    return hasattr(thing, "items") and hasattr(thing, "index") and getattr(thing, "ndim", 0) == 1


def _finite(score: Any, who: str) -> float:
    try:
        value = float(score)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        shown = " ".join(repr(score).split())
        msg = f"{who}: the score is {shown:.80}; expected a finite number"
        raise ScoreError(msg)
    return value


def _named(ids: Sequence[str]) -> str:
    """Name the first few ids and count the others."""
    shown = ", ".join(repr(i) for i in ids[:3])
    return shown if len(ids) <= 3 else f"{shown} and {len(ids) - 3} more ids"
