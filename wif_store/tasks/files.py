"""The rows of a file: JSON, JSON lines, CSV, TSV or Parquet. Sources and predictions are both read here."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import TextIO

    Rows = Iterator[tuple[int, dict[str, Any]]]

LINES: Final = frozenset({".jsonl", ".csv", ".tsv"})
"""The kinds of file whose rows are found by their line."""
LONGEST_FIELD: Final = 2**31 - 1
"""Characters of a field of a CSV file; Python's own limit is 131,072, and prompts may be longer."""


def kind_of(path: Path) -> str | None:
    """The suffix that says how a file is read; None where it cannot be read.

    Example:
        >>> from pathlib import Path
        >>> kind_of(Path("rows.jsonl.gz"))
        '.jsonl'
    """
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [".gz"]:
        return suffixes[0] if suffixes[0] in _READERS and suffixes[0] != ".parquet" else None
    return suffixes[-1] if suffixes and suffixes[-1] in _READERS else None


def readable() -> str:
    """The suffixes of the files that can be read, as errors list them."""
    return f"{', '.join(_READERS)} or one of the texts with .gz"


def where(path: Path, number: int) -> str:
    """How an error names a row of a file.

    Example:
        >>> from pathlib import Path
        >>> where(Path("data/rows.csv"), 3)
        'rows.csv, line 3'
    """
    return f"{path.name}, {'line' if kind_of(path) in LINES else 'row'} {number}"


def read_rows(path: Path) -> Rows:
    """Read the rows of a file one after the other.

    The suffix says what the file is: ``.jsonl``, ``.json`` (a list of objects, JSON lines, or columns as
    pandas writes them), ``.csv``, ``.tsv`` or ``.parquet``; all but the last may end in ``.gz``. Texts are
    UTF-8 unless they say otherwise by a byte-order mark. Blank lines are skipped. The values of CSV and TSV
    are texts. Stray bytes become lone surrogates, as ``surrogateescape`` makes them.

    Yields:
        The number of the line (of the row in ``.json`` and ``.parquet``), from 1, and the row.

    Raises:
        ValueError: If the file cannot be read; one line that names the file, and the row where there is one.
    """
    kind = kind_of(path)
    if kind is None:
        msg = f"{path.name} cannot be read; expected {readable()}"
        raise ValueError(msg)
    try:
        yield from _READERS[kind](path)
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        said = getattr(error, "strerror", None) or one_line(error)
        msg = f"{path.name} cannot be read: {said}"
        raise ValueError(msg) from None


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        encoding = json.detect_encoding(file.peek(4)[:4])
        yield TextIOWrapper(file, encoding, errors="surrogateescape", newline="")


def _read_lines(path: Path) -> Rows:
    with _text(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                msg = f"{where(path, number)}: not JSON ({one_line(error)})"
                raise ValueError(msg) from None
            yield number, _object(row, path, number)


def _read_json(path: Path) -> Rows:
    with _text(path) as file:
        text = file.read()
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        # A second value after the first: the file holds JSON lines.
        if error.msg == "Extra data":
            yield from _read_lines(path)
            return
        msg = f"{path.name} is not JSON: {one_line(error)}"
        raise ValueError(msg) from None
    except (ValueError, RecursionError) as error:
        msg = f"{path.name} is not JSON: {one_line(error)}"
        raise ValueError(msg) from None
    rows = _of_columns(found) if isinstance(found, dict) else found
    if not isinstance(rows, list):
        msg = f"{path.name} is not a list of objects; expected one object per example"
        raise ValueError(msg)
    for number, row in enumerate(rows, 1):
        yield number, _object(row, path, number)


def _object(row: Any, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        msg = f"{where(path, number)}: found {type(row).__name__}; expected an object"
        raise ValueError(msg)
    return row


def _of_columns(found: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of an object of columns, each a list or pandas' object from index to value; or of one row."""
    columns = list(found.values())
    if not columns:
        return None
    if all(isinstance(column, list) for column in columns) and len({*map(len, columns)}) == 1:
        return [dict(zip(found, values, strict=True)) for values in zip(*columns, strict=True)]
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        return [{name: column[index] for name, column in found.items()} for index in columns[0]]
    return [found]


def _read_table(path: Path) -> Rows:
    csv.field_size_limit(LONGEST_FIELD)
    with _text(path) as file:
        first = file.readline()
        delimiter = "\t" if kind_of(path) == ".tsv" else max(",;\t", key=first.count)
        # Spaces after the commas of the header are the file's style, and no part of its fields.
        spaced = f"{delimiter} " in first
        reader = csv.reader(chain([first], file), delimiter=delimiter, skipinitialspace=spaced, strict=True)
        number = 1
        try:
            names = [name.strip() for name in next(reader, [])]
            if len({*names}) < len(names):
                msg = f"{path.name}: a column stands twice in {', '.join(names)!r:.200}"
                raise ValueError(msg)
            number = reader.line_num + 1
            for values in reader:
                if values and len(values) != len(names):
                    msg = f"{where(path, number)}: found {len(values)} fields; expected {len(names)}"
                    raise ValueError(msg)
                if values:
                    yield number, dict(zip(names, values, strict=True))
                number = reader.line_num + 1
        except csv.Error as error:
            msg = f"{where(path, number)}: {one_line(error)}"
            raise ValueError(msg) from None


def _read_parquet(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("rb") as content:
        try:
            file = pq.ParquetFile(content)
            classes = _classes(file.schema_arrow.metadata or {})
            batches = file.iter_batches(use_threads=False)
            rows = chain.from_iterable(batch.to_pylist() for batch in batches)
            for number, row in enumerate(rows, 1):
                yield number, named_classes(row, classes)
        except (pa.ArrowException, OSError) as error:
            msg = f"{path.name} is not Parquet: {one_line(error)}"
            raise ValueError(msg) from None


def _classes(metadata: Mapping[bytes, bytes]) -> dict[str, Sequence[str]]:
    """The class names that ``datasets`` notes for a column of indices."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        kinds = {name: feature for name, feature in features.items() if isinstance(feature, dict)}
        return {name: [*kind["names"]] for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def named_classes(row: dict[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row with the names of its classes in place of their indices; None where an index has no name.

    Example:
        >>> named_classes({"label": 1}, {"label": ["no", "yes"]})
        {'label': 'yes'}
    """
    for column, names in classes.items():
        index = row.get(column)
        if isinstance(index, int):
            row[column] = names[index] if 0 <= index < len(names) else None
    return row


_READERS: Final = {
    ".jsonl": _read_lines,
    ".json": _read_json,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_parquet,
}
