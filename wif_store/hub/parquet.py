"""Store -> Parquet: the table of examples with a column of residuals a layer, which every data tool reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wif_store.format.schema import FINAL_TOKEN, RESIDUAL_COLUMN, SPLITS, residual_columns
from wif_store.format.table import arrow_schema
from wif_store.storage import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pyarrow as pa

    from wif_store.format.schema import Manifest
    from wif_store.store.reader import ActivationStore

VIEW_VERSION: Final = 3
"""Raised when the same store would be laid out as other Parquet files."""

FILE_BYTES: Final = 256 * 2**20
"""Uncompressed residuals of one file, at most: the Hub's viewer shows no row group above 300 MB. A file is
one row group, so that a layer's values are one run of bytes in it."""

PAGE_BYTES: Final = 4 * 2**20
"""zstd wants each byte plane of a page to be long: below a MiB the pages come out larger."""

LEVEL: Final = 16
"""Of zstd: on real residuals every other level from 1 up that was tried came out 1 to 7 percent larger."""

REPEATING: Final = ("task", "graded_by", "finish_reason")
"""Columns of few different texts."""


def view_schema(manifest: Manifest) -> pa.Schema:
    """The columns of the view: those of the table of examples, then one float32 list for each layer.

    Example of a type: ``resid_post_04: fixed_size_list<element: float not null>[2304]``.
    """
    import pyarrow as pa

    values = pa.list_(pa.field("element", pa.float32(), nullable=False), int(manifest.model["d_model"]))
    schema = arrow_schema(manifest.outcome)
    for name in residual_names(manifest):
        schema = schema.append(pa.field(name, values))
    return schema


def residual_names(manifest: Manifest) -> list[str]:
    """The names of the columns of residuals, one a layer."""
    return residual_columns(manifest.layers[FINAL_TOKEN], int(manifest.model["n_layers"]))


def export_view(
    store: ActivationStore, folder: Path, on_file: Callable[[int], None] = lambda size: None
) -> dict[str, dict[str, Any]]:
    """Write the Parquet view of a store.

    Residuals are the store's bit for bit, kept as byte planes (``BYTE_STREAM_SPLIT``) under zstd. The
    bytes of a file are a function of the store and of the version of pyarrow.

    Args:
        store: The store.
        folder: Where ``{split}-00000-of-0000N.parquet`` go; made if need be.
        on_file: Called with the uncompressed bytes of the residuals of each file written.

    Returns:
        Size and SHA-256 of each file, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    schema = view_schema(store.manifest)
    row_bytes = 4 * store.d_model * len(store.layers)
    files = {}
    for split in SPLITS:
        for name, rows in _parts(split, store.count(split), FILE_BYTES // max(1, row_bytes)):
            _write(folder / name, _table(store, schema, split, rows))
            files[name] = describe(folder / name)
            on_file((rows.stop - rows.start) * row_bytes)
    return files


def _parts(split: str, rows: int, most: int) -> Iterator[tuple[str, slice]]:
    """The files of a split: consecutive rows, as even in number as can be, no pair of rows cut in two."""
    pairs = rows // 2
    count = max(1, -(-pairs // max(1, most // 2)))
    for i in range(count):
        name = f"{split}-{i:05d}-of-{count:05d}.parquet"
        yield name, slice(2 * (pairs * i // count), 2 * (pairs * (i + 1) // count))


def _table(store: ActivationStore, schema: pa.Schema, split: str, rows: slice) -> pa.Table:
    import pyarrow as pa

    table = store.table(split).slice(rows.start, rows.stop - rows.start)
    for field, layer in zip(list(schema)[table.num_columns :], store.layers, strict=True):
        values = store.read_final_token(layer, split)[0][rows]
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=field.type)
        table = table.append_column(field, column)
    return table.cast(schema)


def _write(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    residuals = [name for name in table.column_names if name.startswith(RESIDUAL_COLUMN)]
    texts = [name for name in table.column_names if name not in residuals]
    pq.write_table(
        table,
        path,
        row_group_size=max(1, table.num_rows),
        compression="zstd",
        compression_level=LEVEL,
        use_dictionary=[name for name in texts if name in REPEATING],
        use_byte_stream_split=[f"{name}.list.element" for name in residuals],
        # A choice among thousands of dimensions is never made by their extremes.
        write_statistics=texts,
        data_page_size=PAGE_BYTES,
        # With it a reader of a few rows fetches pages, not the row group.
        write_page_index=True,
        data_page_version="1.0",
    )
