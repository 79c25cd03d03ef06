"""The table of examples of a split as Parquet: its schema from the one list of columns, its bytes, rows."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

from wif_store.format.schema import COMMON, Choice, Example, Response, columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from wif_store.format.schema import Int32


SLACK: Final = 64 * 2**20
MOST_COMPRESSED: Final = 100
"""What is stored may hold this many times the bytes of its file, and ``SLACK`` besides."""


def arrow_schema(outcome: str) -> pa.Schema:
    """The schema of the table of examples.

    Example:
        >>> arrow_schema("choice").field("choices").type
        ListType(list<item: string>)
    """
    import pyarrow as pa

    def kind(text: str) -> Any:
        if text.startswith("list<"):
            return pa.list_(kind(text[5:-1]))
        return getattr(pa, text)()

    return pa.schema([pa.field(column.name, kind(column.type)) for column in columns(outcome)])


def render_table(rows: Sequence[Mapping[str, Any]], outcome: str) -> bytes:
    """The Parquet file of the examples of a split; its bytes are a function of the rows and of pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(list(rows), schema=arrow_schema(outcome))
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd", row_group_size=max(1, table.num_rows))
    return content.getvalue()


def parse_table(content: bytes, outcome: str, rows: int) -> pa.Table:
    """Read the table of a split.

    Raises:
        ValueError: If it is not a table of these columns, has another number of rows, or would take far more
            memory than its bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        if not file.schema_arrow.equals(arrow_schema(outcome)):
            msg = f"its columns are {', '.join(file.schema_arrow.names)[:200]}; expected those of {outcome}"
            raise ValueError(msg)
        if file.metadata.num_rows != rows:
            msg = f"it has {file.metadata.num_rows} rows; expected {rows}"
            raise ValueError(msg)
        groups = range(file.metadata.num_row_groups)
        held = sum(file.metadata.row_group(number).total_byte_size for number in groups)
        most = SLACK + MOST_COMPRESSED * len(content)
        if held > most:
            msg = f"it says it holds {held} bytes; expected at most {most}"
            raise ValueError(msg)
        # In this thread: when it gives a stranger's table up, no other thread is still at it.
        return file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from None


def as_example(row: Mapping[str, Any], split: str, token_ids: Int32) -> Example:
    """One row of the table, with its tokens, as an example."""
    common = {column.name: row[column.name] for column in COMMON}
    if "choices" in row:
        outcome: dict[str, Any] = {"choice": Choice(**_fields(Choice, row))}
    else:
        outcome = {"response": Response(**_fields(Response, row))}
    return Example(**common, split=split, token_ids=token_ids, **outcome)


def _fields(kind: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: row[name] for name in kind.__slots__}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
