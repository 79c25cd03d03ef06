"""What a published layer costs: the size of the Parquet view, and the bytes that readers fetch.

    python -m benchmarks.publishing view STORE [STORE ...]
    python -m benchmarks.publishing bytes

``view`` writes the Parquet view of stores at several levels of zstd, and compares its residual columns and
its files with the Zarr arrays of the final tokens. ``bytes`` publishes 4,000 made-up rows, 26 layers of width
2,304, to a Hub on the loopback interface; unmodified clients read one layer, and the server counts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from tests.support.hub import Hub
from tests.support.stores import make_store
from wif_store import open_store
from wif_store.hub import export
from wif_store.format.schema import RESIDUAL_COLUMN

ROOT = Path(__file__).parents[1]
REPO = "whyitfailed/gemma2-acts"
LAYER = 12
LEVELS = 1, 9, 15, 16, 17, 19
EXACT = "{'hf': {'block_size': 1}}"


def load(columns: list[str], options: str = "None") -> str:
    """A script that streams columns of all splits with ``datasets``."""
    return (
        "from datasets import load_dataset\n"
        f"parts = load_dataset({REPO!r}, 'winogrande', streaming=True, columns={columns}, "
        f"storage_options={options})\n"
        f"assert sum(1 for part in parts.values() for _ in part) == 4000"
    )


def frames(options: str) -> str:
    """A script that reads a column of all files with pandas."""
    return (
        "import pandas\nfrom huggingface_hub import HfFileSystem\n"
        f"paths = HfFileSystem().glob('datasets/{REPO}/data/winogrande/*.parquet')\n"
        f"read = dict(columns=['resid_post_{LAYER:02d}'], storage_options={options})\n"
        "assert sum(len(pandas.read_parquet('hf://' + path, **read)) for path in paths) == 4000"
    )


def duck() -> str:
    """A script that reads a column of all files with DuckDB, by way of the client's file system."""
    return (
        "import duckdb\nfrom huggingface_hub import HfFileSystem\n"
        "duckdb.register_filesystem(HfFileSystem(block_size=1))\n"
        f"paths = 'hf://datasets/{REPO}/data/winogrande/*.parquet'\n"
        f"rows = duckdb.sql(f\"select resid_post_{LAYER:02d} from '{{paths}}'\").to_arrow_table()\n"
        "assert len(rows) == 4000"
    )


def zarr(name: str) -> str:
    """A script that reads a layer with the store's own reader."""
    return (
        "from wif_store import open_store\n"
        f"values, _ = open_store('hf://datasets/{REPO}/zarr/winogrande.zarr').{name}({LAYER})\n"
        "assert len(values) >= 4000"
    )


READERS = {
    "open_store(...).read_final_token(layer)": zarr("read_final_token"),
    "load_dataset, streaming, the layer, block_size 1": load([f"resid_post_{LAYER:02d}"], EXACT),
    "load_dataset, streaming, the layer and success, block_size 1": load(
        [f"resid_post_{LAYER:02d}", "success"], EXACT
    ),
    "load_dataset, streaming, the layer": load([f"resid_post_{LAYER:02d}"]),
    "load_dataset, streaming, the layer and success": load([f"resid_post_{LAYER:02d}", "success"]),
    "load_dataset, streaming, the last layer": load(["resid_post_25"]),
    "pandas, the layer, block_size 1": frames("{'block_size': 1}"),
    "pandas, the layer": frames("None"),
    "DuckDB, the layer, HfFileSystem(block_size=1)": duck(),
}


def bytes_fetched() -> None:
    """Print the bytes that each reader fetches, to the layer's bytes in the store."""
    with tempfile.TemporaryDirectory() as folder, Hub(Path(folder, "hub")) as hub:
        path = Path(folder, "winogrande.zarr")
        make_store(path, per_class=2000, layers=26, sequence_layers=1, d_model=2304, tokens=1)
        files = open_store(path).manifest.files
        layer = sum(e["size"] for name, e in files.items() if name.startswith(f"final_token/c/{LAYER}/"))
        push = [sys.executable, "-m", "wif_store.cli.app", "push", str(path)]
        env = hub.environ(PYTHONPATH=str(ROOT))
        subprocess.run(push, env=env, check=True)
        print(f"a layer is {layer / 1e6:.1f} MB\n\n| how | bytes fetched to the layer's bytes |\n|---|---|")
        for name, script in READERS.items():
            hub.log.clear()
            subprocess.run([sys.executable, "-c", script], env=env, check=True)
            print(f"| {name} | {hub.log.sent() / layer:.3f} |", flush=True)


def view_sizes(paths: list[Path]) -> None:
    """Print the size of the view of each store at each choice of levels, to Zarr's final tokens."""
    print("| store | examples | level | columns | files | seconds |\n|---|---|---|---|---|---|")
    for path in paths:
        store = open_store(path)
        arrays = sum(e["size"] for n, e in store.manifest.files.items() if n.startswith("final_token/c/"))
        for level in LEVELS:
            export.LEVEL = level
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                files = export.export_view(store, Path(folder))
                spent = time.perf_counter() - start
                columns = sum(residual_bytes(Path(folder, name)) for name in files)
            whole = sum(file["size"] for file in files.values())
            cells = path.name, len(store.examples()), level, columns / arrays, whole / arrays, spent
            print("| {} | {} | {} | {:.3f} | {:.3f} | {:.1f} |".format(*cells), flush=True)


def residual_bytes(path: Path) -> int:
    """Bytes that the residual columns of a Parquet file take."""
    groups = pq.ParquetFile(path).metadata
    columns = (
        groups.row_group(g).column(c) for g in range(groups.num_row_groups) for c in range(groups.num_columns)
    )
    return sum(c.total_compressed_size for c in columns if c.path_in_schema.startswith(RESIDUAL_COLUMN))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("view").add_argument("stores", type=Path, nargs="+", metavar="STORE")
    commands.add_parser("bytes")
    args = parser.parse_args()
    if args.what == "view":
        view_sizes(args.stores)
    else:
        bytes_fetched()
