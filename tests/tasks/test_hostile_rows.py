"""Rows that fuzzing found: each ends in one line that names the row."""

from __future__ import annotations

import json

import pytest

from wif_store.errors import SourceError
from wif_store.tasks import get_task
from wif_store.tasks.rows import load_source

GOOD = {"sentence": "The cup is in the _ now.", "option1": "box", "option2": "sink", "answer": "1"}
ROWS = {
    "half a surrogate pair": (json.dumps({**GOOD, "option1": "\ud800"}).encode(), "is not Unicode text"),
    "a stray byte": (json.dumps(GOOD).encode().replace(b"cup", b"c\xffp"), "is not Unicode text"),
    "a number of 5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "line 1: not JSON"),
    "nesting": (b'{"a": ' * 100_000, "line 1: not JSON"),
    "a list for a split": (json.dumps({**GOOD, "paper_split": []}).encode(), "'paper_split' is list"),
    "an object for an outcome": (json.dumps({**GOOD, "gemma2_2b_correct": {}}).encode(), "is dict"),
    "a field that writes to the terminal": (b'{"\\u001b]0;x": 1}', r"found '\\x1b\]0;x'"),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_fuzzing_found(case, tmp_path):
    content, message = ROWS[case]
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(SourceError, match=message) as error:
        load_source(get_task("winogrande"), str(tmp_path / "rows.jsonl"))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
