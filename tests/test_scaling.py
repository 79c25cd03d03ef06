"""The simulation of many workers counts right."""

from __future__ import annotations

import pytest

from benchmarks import scaling
from tests.support import tiny
from tests.support.stores import ROWS


def test_work_is_taken_by_whoever_is_free_first():
    assert scaling.makespan([5, 1, 1, 1, 4], 1) == 12
    # 5 | 1 1 1 4: the second worker takes all the rest.
    assert scaling.makespan([5, 1, 1, 1, 4], 2) == 7
    assert scaling.makespan([5, 1, 1, 1, 4], 9) == 5
    assert scaling.idle([5, 1, 1, 1, 4], 2, 7) == pytest.approx(1 - 12 / 14)


def test_a_block_costs_the_padding_of_its_batches():
    lengths = [(2, 2.0), (10, 10.0), (4, 4.0), (10_000, 10_000.0)]
    assert scaling.block_costs(lengths, 3) == [30, 10_000]
    # What does not fit beside the longest is a batch of its own.
    assert scaling.block_costs(lengths, 4) == [10_000 + 30]


def test_one_worker_is_never_idle_and_many_are():
    lengths = {"a": [(10, 10.0)] * 2000, "b": [(7, 5.0)] * 1200}
    assert set(scaling.policies(lengths, 1).values()) == {0}
    shares = list(scaling.policies(lengths, 64).values())
    assert shares[0] > shares[1] > 0.5  # four and three blocks for 64 workers; four times as many are better
    assert 0 <= shares[3] < 0.2


def test_it_runs(tiny_models, tmp_path, capsys):
    for name, row in ROWS.items():
        tiny.write_rows(tmp_path / f"{name}.jsonl", [row(i) for i in range(24)])
    model = str(tiny_models("llama"))
    scaling.main(["--data", str(tmp_path), "--model", model, "--figure", str(tmp_path / "f.png")])
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(f"| {name} | 24 | 1 |" in printed for name in ROWS)
    assert "| all | 30 |" in printed
