"""Where a batch does not fit into memory, its block is run in smaller ones, which are recorded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support import tiny
from tests.support.command import build
from wif_store.extract.decoder import Decoder
from wif_store.extract.engine import open_engine
from wif_store.extract.intervention import Intervention
from wif_store.extract.rerun import Rerun
from wif_store.store.reader import open_store
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source

ROOM = 400
"""Tokens, padding included, that the memory of these tests has room for."""


def refuse(monkeypatch):
    """From now on an allocator refuses passes of more tokens; gives the sizes of those it lets through."""
    states = Decoder.states
    passes = []

    def within(self, rows, read=None):
        if rows.ids.numel() > ROOM:
            msg = "CUDA out of memory. Tried to allocate 2.00 GiB."
            raise torch.OutOfMemoryError(msg)
        passes.append(rows.ids.numel())
        return states(self, rows, read)

    monkeypatch.setattr(Decoder, "states", within)
    return passes


@pytest.fixture
def refusing(monkeypatch):
    return refuse(monkeypatch)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return tiny.write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", tiny.rows(400))


GIVEN = ("--per-class", 60, "--dtype", "float32", "--sequence-layers", "1,3")


def files(store):
    """All but the manifest, which says how it came to be."""
    return {
        path.relative_to(store): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def test_smaller_batches_are_recorded_and_give_what_they_give(tiny_models, rows, tmp_path, refusing):
    model = tiny_models("llama")
    done = build(model, rows, tmp_path / "halved.zarr", *GIVEN, "--batch-tokens", 1600)
    assert done.returncode == 0, done.stderr
    halved = open_store(tmp_path / "halved.zarr")
    [(tokens, blocks)] = halved.manifest.selection["smaller_batches"].items()
    assert (tokens, blocks > 1) == ("400", True)
    assert halved.manifest.batching["tokens"] == 1600
    assert max(refusing) <= ROOM
    # What is recorded is what was run: as if these batches had been asked for.
    assert build(model, rows, tmp_path / "asked.zarr", *GIVEN, "--batch-tokens", 400).returncode == 0
    asked = open_store(tmp_path / "asked.zarr")
    assert asked.manifest.selection["smaller_batches"] == {}
    assert files(tmp_path / "asked.zarr") == files(tmp_path / "halved.zarr")


def test_a_resumed_build_has_the_same_bytes(tiny_models, rows, tmp_path, refusing, monkeypatch):
    given = (*GIVEN, "--batch-tokens", 1600)
    model = tiny_models("llama")
    assert build(model, rows, tmp_path / "whole.zarr", *given).returncode == 0
    count = len(refusing)
    states = Decoder.states

    def stopped(self, rows, read=None):
        if len(refusing) > count + 25:
            raise KeyboardInterrupt
        return states(self, rows, read)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "states", stopped)
        assert build(model, rows, tmp_path / "resumed.zarr", *given).returncode == 130
    assert not (tmp_path / "resumed.zarr").exists()
    done = build(model, rows, tmp_path / "resumed.zarr", *given)
    assert done.returncode == 0, done.stderr
    whole, resumed = (tmp_path / f"{name}.zarr" for name in ("whole", "resumed"))
    assert files(resumed) == files(whole)
    assert (resumed / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()


def test_a_row_that_does_not_fit_alone_is_named(tiny_models, tmp_path, refusing):
    long = tiny.rows(120)
    long[70]["sentence"] = "After dinner, " * 150 + long[70]["sentence"]
    source = tiny.write_rows(tmp_path / "rows.jsonl", long)
    done = build(tiny_models("llama"), source, tmp_path / "s.zarr", "--per-class", "max")
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: example winogrande-")
    assert "tokens to run, which do not fit into memory even alone: pass --sequence-layers none" in error


def test_a_moved_pass_that_does_not_fit_gives_what_a_whole_one_gives(tiny_models, rows, monkeypatch):
    """The lower layers stand in for themselves by what is run, and not by the number of the pass."""
    task = get_task("winogrande")
    protocol = task.protocol("aligned")
    requests = [task.request(c, protocol) for c in load_source(task, str(rows)).candidates[:40]]
    given = {"dtype": "float32", "device": "cpu", "batch_tokens": 1600, "sequence_layers": "none"}
    extractor = open_engine(str(tiny_models("llama")), protocol, **given).extract
    move = Intervention(1, np.full(32, 32**-0.5, np.float32), shift=3.0)
    whole = Rerun(extractor, 1).block(requests)
    whole.run(None)
    expected = whole.run(move)
    block = Rerun(extractor, 1).block(requests)
    block.run(None)
    block.run(move)  # The first one tries whether the lower layers may be left out.
    refuse(monkeypatch)
    for found, want in zip(block.run(move), expected, strict=True):
        assert found.batch_tokens == 400
        np.testing.assert_allclose(found.logprobs, want.logprobs, rtol=1e-5)
