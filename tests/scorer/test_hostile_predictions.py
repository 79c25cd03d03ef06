"""Files of predictions that fuzzing found: each ends in one line."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wif_store.errors import ScoreError
from wif_store.scorer.predictions import read_predictions


def refused(path):
    with pytest.raises(ScoreError) as error:
        read_predictions(path)
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"id": "a", "score": ' + b"9" * 400 + b"}"])
def test_lines_that_fuzzing_found(content, tmp_path):
    (tmp_path / "p.jsonl").write_bytes(content)
    refused(tmp_path / "p.jsonl")


def test_a_damaged_parquet_file(tmp_path):
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"id": ["a"], "score": [0.5]}), path)
    content = bytearray(path.read_bytes())
    content[-40:-8] = b"\xff" * 32
    path.write_bytes(bytes(content))
    refused(path)
