"""Fuzzing by hypothesis: whatever a stranger's bytes are, they are read or refused by an error of ours."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import resource
import traceback
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.faults.builds import made_up_job, numbers
from tests.faults.report import Row
from tests.support.stores import ROWS
from wif_store.cli.store import describe_audit, describe_store
from wif_store.errors import WifError
from wif_store.format.chunks import CHECKSUM, crc32c, index_bytes, read_index, shard_file
from wif_store.format.manifest import render_manifest
from wif_store.format.metadata import layouts_of
from wif_store.format.schema import MANIFEST, METADATA
from wif_store.scorer.predictions import read_predictions
from wif_store.store.audit import audit_store
from wif_store.store.reader import open_store
from wif_store.store.verify import verify_store
from wif_store.tasks import TASKS
from wif_store.tasks.rows import load_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.campaign import Campaign

MEMORY = 12 * 2**30
"""Bytes that the process of a row may map: what asks for more is a loss."""
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(),
    st.text(st.characters(), max_size=8),
    st.sampled_from(["", "..", "\ud800", "NaN", "\x1b[2J", "[red]", "int8", 10**400, -1, 2**40, 2**63]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)
DEEP = st.integers(1, 60_000).map(lambda n: b"[" * n) | st.integers(1, 60_000).map(lambda n: b'{"a":' * n)


def manifests(campaign: Campaign) -> Iterator[Row]:
    """Manifests of a store: edited and sealed anew, edited with the old seal, damaged bytes, deep nesting."""
    store = _store(campaign, "manifests")
    content = (store / MANIFEST).read_bytes()
    good = json.loads(content)
    # Most edits are to fall on what is parsed, few on the list of files.
    without = {name: value for name, value in good.items() if name != "files"}
    edited = edits(without).map(lambda d: {**d, "files": good["files"]} if isinstance(d, dict) else d)
    sealed = (edited | edits(good)).map(lambda d: render_manifest(d) if isinstance(d, dict) else _dumps(d))
    inputs = sealed | sealed | edited.map(_dumps) | damaged(content) | DEEP | st.binary(max_size=200)

    def use(data: bytes) -> None:
        (store / MANIFEST).write_bytes(data)
        _read(store)

    yield _run(Row("fuzzed manifest", campaign.count(100, 2500)), inputs, campaign, use)


def contents(campaign: Campaign) -> Iterator[Row]:
    """Tables, arrays, chunks and metadata whose bytes are damaged, under checksums that fit all the same."""
    store = _store(campaign, "contents")
    manifest = json.loads((store / MANIFEST).read_bytes())
    layouts = layouts_of(open_store(store).manifest)
    kept = {name: (store / name).read_bytes() for name in manifest["files"]}

    def hostile(name: str) -> st.SearchStrategy[tuple[str, bytes, dict[str, str]]]:
        if name.endswith((METADATA, ".parquet")):
            return damaged(kept[name]).map(lambda data: (name, data, {}))
        layout = layouts[name.partition("/c/")[0]]
        if layout.shard is None:
            return damaged(kept[name][:-CHECKSUM]).map(lambda data: (name, data + crc32c(data), {}))
        count = layout.chunks_per_shard[0] * layout.chunks_per_shard[1] * layout.chunks_per_shard[2]
        end = len(kept[name]) - index_bytes(count)
        places = read_index(kept[name][end:], count, end).tolist()
        chunks = [kept[name][a : a + n] if n > 0 else None for a, n in places]

        def shard(frame: bytes) -> tuple[str, bytes, dict[str, str]]:
            checksums: list[str] = []
            parts = shard_file([frame + crc32c(frame), *chunks[1:]], count, checksums)
            return name, b"".join(parts), {"chunk_crc32c": "".join(checksums)}

        assert chunks[0] is not None
        return damaged(chunks[0][:-CHECKSUM]).map(shard)

    def use(found: tuple[str, bytes, dict[str, str]]) -> None:
        name, data, more = found
        entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **more}
        (store / name).write_bytes(data)
        (store / MANIFEST).write_bytes(
            render_manifest({**manifest, "files": {**manifest["files"], name: entry}})
        )
        try:
            _read(store)
        finally:
            (store / name).write_bytes(kept[name])

    inputs = st.sampled_from(sorted(kept)).flatmap(hostile)
    yield _run(Row("fuzzed files under checksums that fit", campaign.count(60, 2000)), inputs, campaign, use)


def sources(campaign: Campaign) -> Iterator[Row]:
    """Rows of every task, in four kinds of file: edited, damaged, deep, or no rows at all."""
    folder, row = campaign.at("sources"), Row("fuzzed source rows, four tasks", campaign.count(120, 4000))
    for name, task in TASKS.items():
        good = {**ROWS[name](1), "paper_split": "train", "gemma2_2b_correct": True}
        plain = _dumps(good)
        lines = edits(good).map(_dumps) | damaged(plain) | DEEP | VALUES.map(_dumps) | st.binary(max_size=40)
        of_kind = {
            "jsonl": st.lists(lines | st.just(plain), min_size=1, max_size=4).map(b"\n".join),
            "json": st.lists(edits(good), max_size=3).map(_dumps) | damaged(b"[" + plain + b"]"),
            "csv": damaged(b"\n".join(_separated(good, ","))) | st.binary(max_size=80),
            "tsv": damaged(b"\n".join(_separated(good, "\t"))),
            "jsonl.gz": damaged(plain) | st.binary(max_size=80),
        }
        for kind, inputs in of_kind.items():
            path = folder / f"rows.{kind}"

            def use(data: bytes, task: Any = task, path: Path = path) -> None:
                path.write_bytes(data)
                for duplicates in (False, True):
                    source = load_source(task, str(path), keep_duplicates=duplicates)
                    for candidate in source.candidates:
                        for protocol in task.protocols:
                            for text in task.request(candidate, protocol).pairs[0]:
                                text.encode()

            _run(row, inputs, campaign, use, row.wanted // len(TASKS) // len(of_kind))
    yield row


def predictions(campaign: Campaign) -> Iterator[Row]:
    """Predictions as CSV, JSON lines and Parquet: rows of odd values, damaged bytes."""
    folder, row = campaign.at("predictions"), Row("fuzzed predictions file", campaign.count(120, 3000))
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

        _run(row, inputs, campaign, use, row.wanted // len(of_kind))
    yield row


def _store(campaign: Campaign, name: str) -> Path:
    store = campaign.at(name) / "s.zarr"
    made_up_job(store.parent, 28).run(store)
    return store


def _read(store: Path) -> None:
    """Open, describe, read and verify a store."""
    opened = open_store(store)
    describe_store(opened)
    describe_audit(audit_store(opened), opened.manifest.audit.get("published_source"))
    numbers(store)
    opened.read_example("test", 0)
    list(opened.iter_sequences(opened.sequence_layers[0])) if opened.sequence_layers else None
    verify_store(store)


def _run(
    row: Row,
    inputs: st.SearchStrategy[Any],
    campaign: Campaign,
    use: Callable[[Any], object],
    count: int | None = None,
) -> Row:
    """Feed inputs to ``use``; anything but its success or an error of ours is a loss."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))

    @seed(campaign.rng.randrange(2**32))
    @settings(
        max_examples=count or row.wanted,
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
                row.bad(f"an error of {len(text)} characters or many lines: {text[:150]!r}")
            else:
                row.good(f"`{text[-150:]}`")
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            row.bad(
                f"{type(error).__name__} at {at.filename}:{at.lineno}: {str(error)[:150]} "
                f"from {str(value)[:300]!r}"
            )
        else:
            row.notes["read"] += 1
            row.good()

    feed()
    return row


def edits(document: Any) -> st.SearchStrategy[Any]:
    """The document with one to four of its values replaced, left out or renamed."""
    places = list(_places(document))
    edit = st.tuples(st.sampled_from(places), st.sampled_from(["replace", "drop", "rename"]), VALUES)
    return st.lists(edit, min_size=1, max_size=4).map(lambda chosen: _edited(document, chosen))


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with a few cut out, put in or replaced."""
    edit = st.tuples(st.integers(0, len(content)), st.integers(0, 20), st.binary(max_size=8))
    return st.lists(edit, min_size=1, max_size=3).map(lambda chosen: _spliced(content, chosen))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
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


def _separated(row: dict[str, Any], separator: str) -> list[bytes]:
    return [separator.join(map(str, part)).encode() for part in (row, row.values())]
