"""Store -> Parquet: the tabular face of a store, which every data tool reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wif_store.storage import describe
from wif_store.format.schema import RESIDUAL_COLUMN, SPLITS, residual_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from wif_store.format.schema import Manifest
    from wif_store.store.reader import ActivationStore

VIEW_VERSION: Final = 2
"""Raised when the same store would be laid out as other Parquet files."""

FILE_BYTES: Final = 256 * 2**20
"""Uncompressed residuals of one file, at most: the Hub's viewer shows no row group above 300 MB. A file is
one row group, so that a layer's values are one run of bytes in it."""

PAGE_BYTES: Final = 4 * 2**20
"""zstd wants each byte plane of a page to be long: below a MiB the pages come out larger."""

LEVEL: Final = 16
"""Of zstd: on real residuals every other level from 1 up that was tried came out 1 to 7 percent larger."""


def view_schema(manifest: Manifest, layers: Sequence[int]) -> pa.Schema:
    """The columns of the view: what is known of an example, then one float32 list for each layer."""
    import pyarrow as pa

    values = pa.list_(pa.field("element", pa.float32(), nullable=False), int(manifest.model["d_model"]))
    residuals = residual_columns(layers, int(manifest.model["n_layers"]))
    return pa.schema(
        [
            ("id", pa.string()),
            ("task", pa.string()),
            ("prompt", pa.string()),
            ("choices", pa.list_(pa.string())),
            ("gold", pa.int8()),
            ("prediction", pa.int8()),
            ("success", pa.int8()),
            ("choice_logprobs", pa.list_(pa.float64())),
            ("choice_tokens", pa.list_(pa.int32())),
            ("final_token_position", pa.int32()),
            ("source_row", pa.int64()),
            *((name, values) for name in residuals),
        ]
    )


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
    schema = view_schema(store.manifest, store.layers)
    examples = 4 * store.d_model * len(store.layers)
    files = {}
    for split in SPLITS:
        for name, rows in _parts(split, store.manifest.splits[split]["examples"], FILE_BYTES // examples):
            _write(folder / name, _table(store, schema, split, rows))
            files[name] = describe(folder / name)
            on_file((rows.stop - rows.start) * examples)
    return files


def _parts(split: str, rows: int, most: int) -> Iterator[tuple[str, slice]]:
    """The files of a split, as even in length as can be. A split without rows has one empty file."""
    count = max(1, -(-rows // max(1, most)))
    for i in range(count):
        name = f"{split}-{i:05d}-of-{count:05d}.parquet"
        yield name, slice(rows * i // count, rows * (i + 1) // count)


def _table(store: ActivationStore, schema: pa.Schema, split: str, rows: slice) -> pa.Table:
    import pyarrow as pa

    examples = store.examples(split)[rows]
    columns = [
        [e.id for e in examples],
        [e.task for e in examples],
        [e.prompt for e in examples],
        [list(e.choices) for e in examples],
        [e.gold for e in examples],
        [e.prediction for e in examples],
        [e.success for e in examples],
        [list(e.choice_logprobs) for e in examples],
        [list(e.choice_tokens) for e in examples],
        [e.final_token_position for e in examples],
        [e.source_row for e in examples],
    ]
    types = schema.types
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types[: len(columns)], strict=True)]
    for layer, kind in zip(store.layers, types[len(columns) :], strict=True):
        values = store.read_final_token(layer, split)[0][rows]
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind))
    return pa.Table.from_arrays(arrays, schema=schema)


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
        use_dictionary=[name for name in texts if name == "task"],
        use_byte_stream_split=[f"{name}.list.element" for name in residuals],
        # A choice among thousands of dimensions is never made by their extremes.
        write_statistics=texts,
        data_page_size=PAGE_BYTES,
        # With it a reader of a few rows fetches pages, not the row group.
        write_page_index=True,
        data_page_version="1.0",
    )
