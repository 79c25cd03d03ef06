"""Every benchmark runs in its short form, on a tiny model, and counts right. No time is held to anything."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from benchmarks import __main__ as all_of_them
from benchmarks import (
    build,
    clock,
    extract,
    front_door,
    publish,
    read,
    score,
    start,
    steer,
    storage,
    workload,
)
from benchmarks.extract import Batching
from benchmarks.peers import NotRun, Peer, compare
from benchmarks.tables import Table
from tests.support import tiny
from tests.support.stores import ROWS, make_store
from wif_store.extract.float32_linear import needs_float32
from wif_store.format.layout import final_token_layout, sequence_layout
from wif_store.store.reader import open_store
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source

FAILS = (sys.executable, "-c", "import sys; print('no such layer', file=sys.stderr); sys.exit(3)")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, row in ROWS.items():
        tiny.write_rows(folder / f"{name}.jsonl", [row(i) for i in range(60)])
    return folder


@pytest.fixture
def run(tiny_models, data, tmp_path):
    """Run a benchmark in its short form with a tiny model; the tables that it wrote, by title."""

    def run(module, *arguments):
        out = tmp_path / "figures.json"
        given = [*all_of_them.SHORT[module], *arguments, "--json", str(out)]
        if module not in all_of_them.MADE_UP:
            model = str(tiny_models("gemma3"))
            given += ["--data", str(data), "--model", model, "--sequence-layers", "1,3"]
        module.main(given)
        return json.loads(out.read_text())["tables"]

    return run


def test_start_runs(run):
    [rows] = run(start).values()
    assert [row["what"] for row in rows] == ["torch, transformers, weights", "build, to its first batch"]
    assert all(row["s"] > 0 for row in rows)


def test_steer_runs(run):
    rows = run(steer)["A pass with the residual stream moved"]
    assert [row["how"] for row in rows] == list(steer.WAYS)
    assert rows[0]["of plain"] == 1
    assert all(row["s"] > 0 for row in rows)


def test_extract_runs(run, capsys):
    tables = run(extract, "--dtype", "float32")
    rows = {row[""]: row for row in tables["Extraction: winogrande, 48 examples, float32"]}
    assert rows["examples/s"]["build"] > 0
    assert rows["examples/s"]["asked"] == ">= 0.75"
    assert rows["tokens run"]["build"] > 0
    assert "extract: winogrande; about" in capsys.readouterr().err


def test_the_native_type_is_said(capsys):
    dtype = workload.native_dtype("native", "cpu")
    assert dtype == ("float32" if needs_float32(torch.bfloat16) else "bfloat16")
    assert f"everything runs in {dtype}" in capsys.readouterr().err
    assert workload.native_dtype("float16", "cpu") == "float16"


def test_storage_runs(run):
    tables = run(storage)
    assert len(tables) == 3
    sizes = tables.pop(next(iter(tables)))
    assert {row["array"] for row in sizes} == {"sequence", "final_token"}
    for rows in tables.values():
        assert all(row["bytes / raw"] > 0 and row["encode MB/s"] > 0 for row in rows)


@pytest.mark.slow
def test_storage_takes_a_store(tmp_path):
    path = make_store(tmp_path / "s.zarr")
    given = ["--turns", "1", "--megabytes", "0.1", "--json", str(tmp_path / "figures.json")]
    storage.main([str(path), *given])
    tables = json.loads((tmp_path / "figures.json").read_text())["tables"]
    assert len(tables) == 3


@pytest.mark.parametrize("layout", [sequence_layout, final_token_layout])
def test_what_is_encoded_is_read_back(layout):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**14, (1024, 64), dtype=np.uint16)
    for way in (storage.ours(layout(64, 1, 1024)), *storage.others(512)):
        kept = way.encode(bits)
        assert 0 < way.size(kept) < 2.2 * bits.nbytes, way.name
        way.decode(kept)


def test_float32_residuals_are_not_taken_for_bfloat16():
    with pytest.raises(ValueError, match="not bfloat16"):
        storage.bits_of(np.array([[0.1]], np.float32))


def test_read_runs(run):
    tables = run(read)
    assert "Starting" in tables
    [rows] = [rows for title, rows in tables.items() if title.startswith("Reading")]
    assert all(row["ratio"] > 0 for row in rows if row["ratio"] not in ("", None))


def test_a_build_is_watched(run):
    tables = run(build)
    assert [row["files"] for row in tables.pop("Files of a store: 26 layers, 4,000 examples, width 2,304")]
    groups = tables.pop("Groups across splits")
    assert {row["task"] for row in groups} == set(ROWS)
    assert all(row["the audit's count"] == row["counted"] == 0 for row in groups)
    [rows] = tables.values()
    figures = {row["what"]: row["figure"] for row in rows}
    assert 0 <= figures["residual bytes durable when the last forward pass ends"] <= 1
    assert figures["peak disk / finished store"] >= 1


def test_the_files_that_are_counted_are_those_of_a_store(tmp_path):
    path = make_store(tmp_path / "s.zarr")
    manifest = open_store(path).manifest
    there = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert there == build.data_files(manifest) | set(build.metadata_files(manifest)) | {"manifest.json"}


def test_a_folder_that_goes_while_it_is_looked_into_counts_nothing(tmp_path, monkeypatch):
    (tmp_path / "stays").mkdir()
    (tmp_path / "stays" / "a").write_bytes(bytes(10))
    (tmp_path / "goes").mkdir()
    scandir = os.scandir

    def going(path="."):
        if str(path).endswith("goes"):
            (tmp_path / "goes").rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", going)
    assert build.size_of(tmp_path) == 10
    assert not (tmp_path / "goes").exists()


def test_the_peak_is_that_of_both_folders(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "a").write_bytes(bytes(1000))
    with build.Peak(old, new) as peak:
        pass
    assert peak.bytes == build.size_of(tmp_path) == 1000


@pytest.mark.hub
def test_publish_runs(run):
    [rows] = run(publish).values()
    assert len(rows) == len(publish.READERS)
    assert all(row["fetched / stored"] > 1 for row in rows)


@pytest.mark.hub
def test_front_door_runs(run, tmp_path, capsys):
    cell = (
        "import wif_store\nstore = wif_store.open_store('hf://datasets/{}/zarr/winogrande.zarr')\nlen(store)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.format(front_door.REPO))])
    nbformat.write(notebook, tmp_path / "short.ipynb")
    [rows] = run(front_door, "--notebook", str(tmp_path / "short.ipynb")).values()
    assert [row["s"] is None for row in rows] == [True, True, False, True]
    assert "MB came from the Hub" in capsys.readouterr().err


def test_a_notebook_that_fails_is_no_figure(tmp_path):
    with pytest.raises(RuntimeError, match=r"run the notebook ended with 3: no such layer"):
        front_door.timed("run the notebook", *FAILS, folder=tmp_path)


def test_score_runs(run, monkeypatch):
    small = partial(score.made_up, width=32, sizes=(400, 200, 200))
    monkeypatch.setattr(score, "made_up", small)
    [rows] = run(score).values()
    assert [row["how"] for row in rows] == ["ours", "converged"]
    assert rows[1]["AUROC differs"] < 0.01


def test_a_peer_that_is_not_there_is_not_run(run, capsys):
    [rows] = run(compare, "--peers", "no/such/python").values()
    assert [row["examples/s"] is None for row in rows] == [False, True, True]
    assert "published_loop: not run (no python in the peers' environment)" in capsys.readouterr().err


def test_every_benchmark_is_part_of_the_whole(monkeypatch, tmp_path, capsys):
    given = {}
    for module in all_of_them.SHORT:
        monkeypatch.setattr(module, "main", lambda words, module=module: given.update({module: words}))
    all_of_them.main(["--short", "--data", "rows", "--out", str(tmp_path)])
    short = all_of_them.SHORT[extract]
    assert given[extract] == ["--data", "rows", *short, "--json", f"{tmp_path}/extract.json"]
    assert given[score] == [*all_of_them.SHORT[score], "--json", f"{tmp_path}/score.json"]
    assert "## storage" in capsys.readouterr().out


ECHO = """
import os, sys, time
from benchmarks.peers import serve

def load(job):
    print("a word of the tool's own")
    if job["fail"] == "loading":
        raise SystemExit("no such model")
    calls = []
    def run():
        calls.append(1)
        os.system("echo more words")
        if job["fail"] == "running":
            raise RuntimeError("out of memory")
        time.sleep(job["sleep"])
        return {"calls": len(calls)}
    return run

serve(load)
"""


@pytest.fixture
def echo(tmp_path, monkeypatch):
    (tmp_path / "echo_peer.py").write_text(ECHO)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda fail="": Peer(Path(sys.executable), "echo_peer", {"fail": fail, "sleep": 0.05})


def test_a_peer_loads_once_and_times_each_run(echo):
    peer = echo()
    seconds = [peer.run(), peer.run()]
    assert peer.found["calls"] == 2
    assert all(0.05 <= taken < 5 for taken in seconds)
    peer.close()


def test_a_peer_that_fails_is_not_run(echo):
    with pytest.raises(NotRun, match="no such model"):
        echo("loading")
    peer = echo("running")
    with pytest.raises(NotRun, match="out of memory"):
        peer.run()
    peer.close()


def test_works_take_turns():
    order = []
    works = {name: lambda name=name: order.append(name) for name in "abc"}
    clocks, cpu = clock.interleave({**works, "own": lambda: 7.0}, 2)
    assert order == [*"abc", *"bca"]
    assert clock.median(clocks, "own") == 7.0
    assert len(cpu["own"]) == 2
    assert clock.ratio({"a": [4.0, 9.0, 1.0], "b": [2.0, 3.0, 1.0]}, "a", "b") == 2.0


@pytest.mark.parametrize("padded", [True, False])
def test_the_yardstick_runs_every_sequence_once(padded):
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, 99, size=n).tolist() for n in rng.integers(3, 12, size=50)]
    seen = []
    for ids, mask in Batching(32, padded).batches(sequences, torch.device("cpu")):
        assert ids.shape[0] == 1 or ids.numel() <= 32
        assert padded or mask is None
        real = np.ones(ids.shape, bool) if mask is None else mask.numpy().astype(bool)
        seen += [row[keep].tolist() for row, keep in zip(ids.numpy(), real, strict=True)]
    assert sorted(seen) == sorted(sequences)


@pytest.mark.parametrize("name", ["winogrande", "piqa"])
def test_the_yardsticks_sequences_are_those_that_decide(name, tiny_models, data):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_models("gemma3"))
    task = get_task(name)
    protocol = task.protocol("aligned")
    candidates = load_source(task, str(data / f"{name}.jsonl")).candidates[:5]
    requests = [task.request(candidate, protocol) for candidate in candidates]
    sequences = extract.deciding_sequences(requests, tokenizer, protocol)
    assert len(sequences) == 2 * len(requests)
    pairs = {tuple(tokenizer(c + t).input_ids) for r in requests for c, t in r.pairs}
    cut = None if name == "winogrande" else -1
    assert set(map(tuple, sequences)) == {pair[:cut] for pair in pairs}


def test_a_figure_that_was_not_taken_is_said_to_be_so(capsys):
    table = Table("T", "a", "b")
    table.add(None, 1234.5)
    assert table.rows == [{"a": None, "b": 1234.5}]
    assert "| not run | 1,234 |" in capsys.readouterr().out
