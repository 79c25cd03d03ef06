"""Fuzzing by hypothesis: whatever a stranger's bytes are, they are read or refused by an error of ours."""

from __future__ import annotations

import copy
import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.faults.report import Row
from wif_store.errors import WifError
from wif_store.cli.describe import describe_store
from wif_store.format.manifest import parse_manifest, render_manifest
from wif_store.scorer.predictions import read_predictions
from wif_store.tasks.rows import load_source
from wif_store.store.reader import open_store
from wif_store.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS: dict[str, dict[str, Any]] = {
    "winogrande": {
        "sentence": "The cup is in the _ now.",
        "option1": "box",
        "option2": "sink",
        "answer": "1",
    },
    "boolq": {"question": "is water wet", "passage": "Water is wet.", "answer": True},
    "piqa": {"goal": "Fill a cup", "sol1": "pour water", "sol2": "pour sand", "label": 0},
    "social_i_qa": {
        "context": "Kim gave Lou a cup.",
        "question": "What now?",
        "answerA": "thanks",
        "answerB": "run",
        "answerC": "sleep",
        "label": "2",
    },
}

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(),
    st.text(st.characters(), max_size=8),
    st.sampled_from(["", "..", "\ud800", "NaN", "pickle", "/etc/passwd", "int8", "zstd", 10**400, -1, 2**63]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)
DEEP = st.integers(1, 60_000).map(lambda n: b"[" * n) | st.integers(1, 60_000).map(lambda n: b'{"a":' * n)


def edits(document: Any) -> st.SearchStrategy[Any]:
    """The document with one to four of its places replaced, left out or doubled."""
    places = list(_places(document))
    edit = st.tuples(st.sampled_from(places), st.sampled_from(["replace", "drop", "rename"]), VALUES)
    return st.lists(edit, min_size=1, max_size=4).map(lambda chosen: _edited(document, chosen))


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with a few cut out, put in or replaced."""
    edit = st.tuples(st.integers(0, len(content)), st.integers(0, 20), st.binary(max_size=8))
    return st.lists(edit, min_size=1, max_size=3).map(lambda chosen: _spliced(content, chosen))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from _places(inner, (*path, key))


def _edited(document: Any, chosen: list[tuple[tuple[Any, ...], str, Any]]) -> Any:
    made = copy.deepcopy(document)
    for path, how, value in chosen:
        try:
            parent = made
            for key in path[:-1]:
                parent = parent[key]
            if how == "replace":
                parent[path[-1]] = value
            elif how == "rename" and isinstance(parent, dict):
                parent[str(value)[:8]] = parent.pop(path[-1])
            else:
                del parent[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an edit before it has removed the place
    return made


def _spliced(content: bytes, chosen: list[tuple[int, int, bytes]]) -> bytes:
    for at, cut, put in chosen:
        content = content[:at] + put + content[at + cut :]
    return content


def _dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


def _run(
    row: Row, inputs: st.SearchStrategy[Any], count: int, number: int, use: Callable[[Any], object]
) -> None:
    """Feed ``count`` inputs to ``use``; anything but its success or an error of ours is a loss."""

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def feed(value: Any) -> None:
        try:
            use(value)
        except WifError as error:
            row.notes["refused"] += 1
            text = str(error)
            if "\n" in text or len(text) > 2000:
                row.bad(f"an error of {len(text)} characters or many lines: {text[:100]!r}")
            else:
                row.good(f"`{text[-150:]}`")
        except Exception as error:
            row.bad(f"{type(error).__name__}: {str(error)[:150]} from {str(value)[:150]!r}")
        else:
            row.notes["read"] += 1
            row.good()

    feed()


def manifests(store: Path, count: int, number: int) -> Row:
    """Manifests: edited and sealed anew, edited with the old seal, damaged bytes, deep nesting."""
    row = Row("fuzzed manifest")
    content = (store / "manifest.json").read_bytes()
    good = json.loads(content)
    # A few files stand for all: an edit should fall on what is parsed.
    good["files"] = dict(list(good["files"].items())[:3])
    sealed = edits(good).map(lambda d: render_manifest(d) if isinstance(d, dict) else _dumps(d))
    inputs = sealed | edits(good).map(_dumps) | damaged(content) | DEEP | st.binary(max_size=200)
    _run(row, inputs, count, number, lambda data: parse_manifest(data, "s.zarr"))
    return row


def metadata(store: Path, count: int, number: int) -> Row:
    """Zarr metadata: edited or damaged, under a manifest that fits; what opens is read whole."""
    row = Row("fuzzed Zarr metadata")
    content = (store / "zarr.json").read_bytes()
    manifest = json.loads((store / "manifest.json").read_bytes())
    inputs = edits(json.loads(content)).map(_dumps) | damaged(content) | DEEP

    def use(data: bytes) -> None:
        entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        sections = {**manifest, "files": {**manifest["files"], "zarr.json": entry}}
        (store / "zarr.json").write_bytes(data)
        (store / "manifest.json").write_bytes(render_manifest(sections))
        opened = open_store(store)
        describe_store(opened)
        opened.examples()
        for layer in opened.layers:
            opened.read_final_token(layer)
        for layer in opened.sequence_layers:
            opened.read_sequences(layer)

    _run(row, inputs, count, number, use)
    return row


def sources(folder: Path, count: int, number: int) -> Row:
    """JSONL rows of every task: edited, damaged, deep, or no JSON; what is read is put into every prompt."""
    row = Row("fuzzed source rows, four tasks")
    path = folder / "rows.jsonl"
    for name, task in TASKS.items():
        good = {**ROWS[name], "paper_split": "train", "gemma2_2b_correct": True}
        lines = (
            edits(good).map(_dumps)
            | damaged(_dumps(good))
            | DEEP
            | VALUES.map(_dumps)
            | st.binary(max_size=40)
        )
        inputs = st.lists(lines | st.just(_dumps(good)), min_size=1, max_size=4).map(b"\n".join)

        def use(data: bytes, task: Any = task) -> None:
            path.write_bytes(data)
            for duplicates in (False, True):
                source = load_source(task, str(path), keep_duplicates=duplicates)
                for candidate in source.candidates:
                    for protocol in task.protocols:
                        for text in task.request(candidate, protocol).pairs[0]:
                            text.encode()

        _run(row, inputs, count // len(TASKS), number, use)
    return row


def predictions(folder: Path, count: int, number: int) -> Row:
    """Predictions as CSV, JSONL and Parquet: rows of odd values, damaged bytes."""
    row = Row("fuzzed predictions file")
    good = {"id": "piqa-0123456789abcdef", "score": 0.5}
    table = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "b"], "score": [0.5, 1.0]}), table)
    of_kind = {
        "csv": damaged(b"id,score\npiqa-0123456789abcdef,0.5\n") | st.binary(max_size=80),
        "jsonl": edits(good).map(_dumps) | damaged(_dumps(good)) | DEEP | VALUES.map(_dumps),
        "parquet": damaged(table.getvalue()) | st.binary(max_size=80),
    }
    for kind, inputs in of_kind.items():
        path = folder / f"predictions.{kind}"

        def use(data: bytes, path: Path = path) -> None:
            path.write_bytes(data)
            read_predictions(path)

        _run(row, inputs, count // len(of_kind), number, use)
    return row
