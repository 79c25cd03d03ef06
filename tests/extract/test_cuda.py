"""What runs beside the forward pass on a GPU changes nothing: ``pytest -m gpu`` where there is one."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import tiny
from wif_store.builder.pipeline import build_store
from wif_store.builder.plan import Settings
from wif_store.extract import batching
from wif_store.extract.engine import open_engine
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from wif_store.records import Engine, Record

pytestmark = pytest.mark.gpu

TASK = get_task("winogrande")
PROTOCOL = TASK.protocol("aligned")


def engine_on(device: str, folder: Path, dtype: str = "float32", sequence_layers: str = "1,3") -> Engine:
    return open_engine(
        str(folder),
        PROTOCOL,
        sequence_layers=sequence_layers,
        batch_size=3,
        device=device,
        dtype=dtype,
    )


def close(ours: Iterable[Record], theirs: Iterable[Record], tolerance: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.id == other.id
        assert one.prediction == other.prediction
        for name in ("logprobs", "final_token", "sequence"):
            np.testing.assert_allclose(
                getattr(one, name), getattr(other, name), rtol=tolerance, atol=tolerance
            )


@pytest.fixture
def requests(rows_file):
    return [TASK.request(c, PROTOCOL) for c in load_source(TASK, str(rows_file)).candidates]


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "llama", "qwen2", "longrope", "granite"])
def test_a_gpu_gives_what_a_cpu_gives(architecture, tiny_models, requests):
    folder = tiny_models(architecture)
    close(
        engine_on("cuda", folder).extract(requests),
        engine_on("cpu", folder).extract(requests),
        tolerance=1e-4,
    )


def test_a_gpu_may_read_no_sequences(tiny_models, requests):
    folder = tiny_models("gemma2")
    ours, theirs = (
        engine_on(device, folder, sequence_layers="none").extract(requests) for device in ("cuda", "cpu")
    )
    close(ours, theirs, tolerance=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_groups_that_overlap_give_what_each_gives_by_itself(dtype, tiny_models, requests, monkeypatch):
    monkeypatch.setattr(batching, "HELD_TOKENS", 1)
    engine = engine_on("cuda", tiny_models("gemma2"), dtype)
    blocks = [requests[n : n + 7] for n in range(0, len(requests), 7)]
    assert engine.extract._side.depth == 2
    together = list(chain(*engine.extract.stream(blocks * 5)))
    monkeypatch.setattr(engine.extract._side, "depth", 0)
    apart = list(chain(*(engine.extract(block) for block in blocks))) * 5
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one.logprobs, other.logprobs)
        np.testing.assert_array_equal(one.final_token, other.final_token)
        np.testing.assert_array_equal(one.sequence, other.sequence)


def test_a_build_on_a_gpu_has_the_same_bytes_twice(tiny_models, tmp_path):
    source = load_source(TASK, str(tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(120))))
    found = []
    for name in ("one", "two"):
        engine = engine_on("cuda", tiny_models("gemma2"), "bfloat16")
        assert engine.model["device"].startswith("cuda: ")
        assert engine.model["threads"] is None
        build_store(Settings(TASK, PROTOCOL, per_class=None), source, engine, tmp_path / name)
        files = (p for p in (tmp_path / name).rglob("*") if p.is_file())
        found.append({p.relative_to(tmp_path / name): p.read_bytes() for p in files})
    assert found[0] == found[1]
