"""Every benchmark runs in its short form, on a tiny model, and counts right. No time is held to anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as all_of_them
from benchmarks import clock, codecs, extract, projection, read, score, storage, workload
from benchmarks.bare import Batching
from benchmarks.peers import NotRun, Peer
from benchmarks.tables import Table
from tests.support import tiny
from tests.support.stores import ROWS
from wif_store.format.layout import final_token_layout, sequence_layout
from wif_store.builder.shards import shard_of
from wif_store.tasks.rows import load_source
from wif_store.tasks import get_task

PEERS = Path("no", "such", "python")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tiny.write_rows(folder / "winogrande.jsonl", tiny.rows())
    for name in ("boolq", "piqa", "social_i_qa"):
        tiny.write_rows(folder / f"{name}.jsonl", [ROWS[name](i) for i in range(24)])
    return folder


@pytest.fixture
def run(tiny_models, data, tmp_path):
    """Run a benchmark with a tiny model and return the tables it wrote, by title."""

    def run(module, *arguments):
        out = tmp_path / "figures.json"
        given = ["--data", str(data), "--model", str(tiny_models("gemma3")), "--sequence-layers", "1,3"]
        module.main([*given, *arguments, "--json", str(out)])
        return json.loads(out.read_text())["tables"]

    return run


def test_extract_runs_and_says_which_peers_did_not(run, capsys):
    tables = run(extract, *all_of_them.SHORT[extract], "--peers", str(PEERS))
    for name in ("winogrande", "boolq"):
        rows = tables[f"Extraction: {name}"]
        assert all(row["rate"] > 0 for row in rows)
        ran = [row["ratio"] is not None for row in rows]
        assert ran == [True, True, False, False, False, False]
        behind = {row["figure"]: row["value"] for row in tables[f"Behind it: {name}"]}
        assert behind["examples"] == 8
        assert behind["tokens that the build ran"] > 0
    said = capsys.readouterr()
    assert "| not run | not run | >= 60 |" in said.out
    assert "lmprobe_extract: not run (no python in the peers' environment)" in said.err


def test_storage_runs(run):
    tables = run(storage, *all_of_them.SHORT[storage])
    sizes = tables.pop("Size")
    assert [(row["store"], row["array"]) for row in sizes] == [
        (name, array)
        for name in ("winogrande", "boolq", "piqa", "social_i_qa")
        for array in ("sequence", "final_token")
    ]
    assert len(tables) == 3
    for rows in tables.values():
        assert all(row["bytes / raw"] > 0 and row["encode MB/s"] > 0 for row in rows)


def test_read_runs(run):
    tables = run(read, *all_of_them.SHORT[read])
    assert [row["examples"] for row in tables[next(t for t in tables if t.startswith("Memory"))]] == [8, 16]
    assert len(tables["Reading: winogrande"]) == 5
    assert len(tables["Starting"]) == 3


def test_the_projection_counts_what_choices_share_once(run):
    tables = run(projection, *all_of_them.SHORT[projection])
    work = {row["task"]: row for row in tables["Work of an example"]}
    assert work["boolq"]["scored positions"] >= 1
    assert all(row["tokens run"] >= row["tokens read"] for row in work.values())
    floor = tables["Floor at 990 TFLOP/s"]
    assert [row["task"] for row in floor] == [name for name in projection.TASKS for _ in range(2)]


def test_scoring_runs_on_made_up_data(tmp_path, monkeypatch):
    monkeypatch.setitem(score.SEARCHES, "loop", score.ours)  # which would take a minute
    score.main([*all_of_them.SHORT[score], "--json", str(tmp_path / "s.json")])
    assert len(json.loads((tmp_path / "s.json").read_text())["tasks"]) == 4


def test_every_benchmark_is_part_of_the_whole(monkeypatch, tmp_path, capsys):
    given = {}
    for module in all_of_them.SHORT:
        monkeypatch.setattr(
            module, "main", lambda arguments, module=module: given.update({module: arguments})
        )
    all_of_them.main(["--short", "--data", "rows", "--out", str(tmp_path)])
    assert given[extract] == [
        "--data",
        "rows",
        *all_of_them.SHORT[extract],
        "--json",
        f"{tmp_path}/extract.json",
    ]
    assert given[score][-1] == f"{tmp_path}/score.json"
    assert "## projection" in capsys.readouterr().out


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
    assert peer.loaded["seconds"] < 0.05
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


def test_a_child_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match=r"ended with 3: .*a reason"):
        clock.child([sys.executable, "-c", "import sys; print('a reason', file=sys.stderr); sys.exit(3)"])
    peak = clock.child(
        [sys.executable, "-c", "b = bytearray(300_000_000); b[::4096] = b'x' * len(b[::4096])"]
    )[1]
    assert 3e8 < peak < 4e8  # whatever the size of this process


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


def test_the_yardsticks_sequences_are_those_that_decide(tiny_models, data):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_models("gemma3"))
    for name, each in (("winogrande", 2), ("piqa", 2)):
        task = get_task(name)
        protocol = task.protocol("aligned")
        requests = workload.requests_of(task, protocol, load_source(task, str(data / f"{name}.jsonl")))[:5]
        sequences = workload.deciding_sequences(requests, tokenizer, protocol)
        assert len(sequences) == each * len(requests)
        wholes = {tuple(tokenizer(c + t).input_ids) for r in requests for c, t in r.pairs}
        cut = None if name == "winogrande" else -1
        assert set(map(tuple, sequences)) == {whole[:cut] for whole in wholes}


@pytest.fixture(scope="module")
def bits():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1500, 64), np.float32) * np.exp2(np.arange(64) % 7)
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("way", [*codecs.sequences(64), *codecs.final_tokens(64)], ids=lambda way: way.name)
def test_every_codec_gives_back_what_it_took(way, bits):
    kept = way.encode(bits)
    assert 0 < way.size(kept) < 2.2 * bits.nbytes
    back = way.decode(kept)
    if isinstance(back, list):  # chunks, the last of them filled up, perhaps channel-major
        flat = [np.frombuffer(chunk, np.float32) for chunk in back]
        major = "channel-major" in way.name
        back = np.concatenate([f.reshape(64, -1).T if major else f.reshape(-1, 64) for f in flat])[
            : len(bits)
        ]
    elif not isinstance(back, np.ndarray):
        back = back["residuals"].combine_chunks().flatten().to_numpy()
    back = np.ascontiguousarray(back).reshape(bits.shape)
    assert np.array_equal(back if back.dtype == np.uint16 else codecs.bits_of(back), bits)


def test_the_entropy_is_that_of_each_channel():
    two = np.tile(np.array([[1, 7], [1, 9]], np.uint16), (500, 1))
    counted, corrected = storage.entropy(two)
    assert counted == pytest.approx(0.5 / 16)  # one bit in one of two channels
    assert counted < corrected < 1.01 * counted


def test_float32_residuals_are_not_taken_for_bfloat16():
    with pytest.raises(ValueError, match="not bfloat16"):
        codecs.bits_of(np.array([[0.1]], np.float32))


@pytest.mark.parametrize("layout", [sequence_layout, final_token_layout])
def test_the_plans_of_the_package_are_what_is_measured(layout, bits):
    ways = codecs.sequences(64) if layout is sequence_layout else codecs.final_tokens(64)
    shard = shard_of(layout(64, len(bits)), bits)
    assert shard.startswith(b"".join(ways[0].encode(bits)))


def test_a_figure_that_was_not_taken_is_said_to_be_so(capsys):
    table = Table("T", "a", "b")
    table.add(None, 1234.5)
    assert table.rows == [{"a": None, "b": 1234.5}]
    assert "| not run | 1,234 |" in capsys.readouterr().out
