"""How many bytes does a reader of one published layer fetch, against those that are stored of it?

    python -m benchmarks.publish [--per-class K] [--layers N] [--width N] [--json FILE]

A store of made-up residuals is pushed to a Hub on the loopback interface. Unmodified clients read one layer,
each in a process of its own, and the server counts every byte that it sends, whatever it is for.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import workload
from benchmarks.tables import Table, Working, say, write_json
from tests.support.hub import Hub
from wif_store.format.chunks import index_bytes, read_index
from wif_store.format.metadata import layouts_of
from wif_store.format.schema import FINAL_TOKEN, SPLITS
from wif_store.store.reader import open_store
from wif_store.tasks import get_task

ROOT = Path(__file__).parents[1]
REPO = "whyitfailed/gemma2-acts"
OURS = "from wif_store import open_store\nopen_store('hf://datasets/{repo}/zarr/winogrande.zarr')"
STREAM = (
    "from datasets import load_dataset\n"
    "parts = load_dataset({repo!r}, 'winogrande', streaming=True, columns=['resid_post_{layer:02d}'], "
    "storage_options={options})\n"
    "sum(1 for part in parts.values() for _ in part)"
)
EXACT = {"hf": {"block_size": 1}}
READERS = {
    "open_store(...).read_final_token(layer, 'test')": (
        OURS + ".read_final_token({layer}, 'test')",
        "<= 1.15",
    ),
    "open_store(...).read_final_token(layer)": (OURS + ".read_final_token({layer})", ""),
    "load_dataset, streaming, block_size 1": (STREAM, "<= 1.5"),
}
"""What reads, as a script, and what is asked of the ratio."""


def stored(path: Path, layer: int, splits: tuple[str, ...]) -> int:
    """Bytes of a layer's final tokens, by the indices of its shards."""
    layouts, size = layouts_of(open_store(path).manifest), 0
    for split in splits:
        layout = layouts[f"{split}/{FINAL_TOKEN}"]
        count = math.prod(layout.chunks_per_shard)
        for file in layout.files:
            content = (path / split / FINAL_TOKEN / file).read_bytes()
            end = len(content) - index_bytes(count)
            lengths = read_index(content[end:], count, end)[:, 1].reshape(layout.chunks_per_shard)[layer]
            size += int(lengths[lengths > 0].sum())
    return size


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--per-class", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=26)
    parser.add_argument("--width", type=int, default=2304)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    say("publish: two to four minutes on two cores at the usual size")
    layer = options.layers // 2
    with tempfile.TemporaryDirectory() as name, Hub(Path(name, "hub")) as hub:
        folder = Path(name)
        path = folder / "winogrande.zarr"
        source = workload.made_up_rows(folder, 2 * options.per_class)
        engine = workload.made_up_engine(
            source, layers=options.layers, sequence_layers=1, d_model=options.width, tokens=2
        )
        workload.build(get_task("winogrande"), source, workload.keep_all(engine, source), path)
        env = hub.environ(PYTHONPATH=str(ROOT))
        with Working("pushing"):
            push = [sys.executable, "-m", "wif_store.cli.app", "push", str(path), "--repo", REPO]
            subprocess.run(push, env=env, check=True, stdout=subprocess.DEVNULL)
        title = f"Bytes fetched for one layer: {2 * options.per_class:,} examples, width {options.width:,}"
        table = Table(title, "how", "stored, MB", "fetched / stored", "asked")
        for how, (script, asked) in READERS.items():
            size = stored(path, layer, ("test",) if "'test'" in how else SPLITS)
            hub.log.clear()
            code = script.format(repo=REPO, layer=layer, options=EXACT)
            with Working(how):
                subprocess.run([sys.executable, "-c", code], env=env, check=True)
            table.add(how, size / 1e6, hub.log.sent() / size, asked)
    write_json(options.json, [table])


if __name__ == "__main__":
    main()
