"""The table of examples as Parquet: what is written is read, and what is no such table is refused."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wif_store.format.schema import Choice, Response, columns
from wif_store.format.table import arrow_schema, as_example, parse_table, render_table

COMMON = {
    "id": "winogrande-0123456789abcdef",
    "task": "winogrande",
    "group": "0123456789abcdef",
    "source_row": 7,
    "prompt": "the cup é\n\U0001f600",
    "success": 1,
    "tokens": 5,
    "final_token_position": 4,
    "cut_tokens": 0,
}
ROWS = {
    "choice": {
        **COMMON,
        "choices": ["cup", "", "case"],
        "gold": 2,
        "prediction": 2,
        "choice_logprobs": [-3.0, -2.5, -1.25],
        "choice_tokens": [1, 2, 3],
    },
    "response": {
        **COMMON,
        "response": " 42\n",
        "targets": ["42", "forty-two"],
        "answer": "42",
        "graded_by": "exact match",
        "finish_reason": "stop",
        "success_rate": 1.0,
        "response_logprob": -0.5,
        "least_logprob": -0.25,
        "prompt_tokens": 3,
    },
}


@pytest.mark.parametrize("outcome", ROWS)
def test_what_is_written_is_read(outcome):
    row = ROWS[outcome]
    content = render_table([row, {**row, "id": "b"}], outcome)
    table = parse_table(content, outcome, 2)
    assert table.to_pylist() == [row, {**row, "id": "b"}]
    assert table.schema.names == [column.name for column in columns(outcome)]
    assert pd.read_parquet(io.BytesIO(content))["id"].tolist() == [row["id"], "b"]


def test_an_example_is_of_its_kind_of_outcome():
    ids = np.arange(5, dtype=np.int32)
    chosen = as_example(ROWS["choice"], "test", ids)
    assert chosen.choice == Choice(("cup", "", "case"), 2, 2, (-3.0, -2.5, -1.25), (1, 2, 3))
    assert chosen.choice.margin == 1.25
    assert (chosen.response, chosen.split, chosen.prompt) == (None, "test", COMMON["prompt"])
    written = as_example(ROWS["response"], "train", ids)
    answer = Response(" 42\n", ("42", "forty-two"), "42", "exact match", "stop", 1.0, -0.5, -0.25, 3)
    assert written.response == answer
    assert written.choice is None
    assert written.token_ids is ids


@pytest.mark.parametrize("outcome", ROWS)
def test_the_same_rows_are_the_same_bytes(outcome):
    assert render_table([ROWS[outcome]], outcome) == render_table([ROWS[outcome]], outcome)


def test_every_column_has_a_type_and_a_meaning():
    for outcome in ROWS:
        assert len(arrow_schema(outcome)) == len(columns(outcome))
        assert all(column.description for column in columns(outcome))


def other(change):
    table = pa.Table.from_pylist([ROWS["choice"]], schema=arrow_schema("choice"))
    content = io.BytesIO()
    pq.write_table(change(table), content)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (other(lambda t: t.drop_columns(["gold"])), "its columns are id, .*; expected those of choice"),
        (other(lambda t: t.append_column("more", pa.array([1]))), "its columns are"),
        (other(lambda t: t.select(t.schema.names[::-1])), "its columns are"),
        (other(lambda t: t.set_column(10, "gold", pa.array([2]))), "its columns are"),
        (render_table([ROWS["response"]], "response"), "its columns are"),
        (other(lambda t: pa.concat_tables([t, t])), "it has 2 rows; expected 1"),
        (other(lambda t: t.slice(0, 0)), "it has 0 rows; expected 1"),
        (b"", "."),
        (b"PAR1" * 9, "."),
        (b"id,task\n", "."),
    ],
)
def test_what_is_no_such_table_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        parse_table(content, "choice", 1)


def test_a_table_that_holds_far_more_than_its_bytes_is_refused():
    """Without a dictionary a page holds every copy of a text."""
    table = pa.Table.from_pylist(
        [{**ROWS["choice"], "prompt": "a" * 80 * 2**20}], schema=arrow_schema("choice")
    )
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd", use_dictionary=False, write_statistics=False)
    assert len(content.getvalue()) < 2**20
    with pytest.raises(ValueError, match=r"it says it holds \d+ bytes; expected at most"):
        parse_table(content.getvalue(), "choice", 1)


@pytest.mark.parametrize("at", range(4, 3000, 97))
def test_changed_bytes_end_in_an_error_or_a_table(at):
    """Never in another kind of error: its SHA-256 is checked before, but a stranger writes that too."""
    content = bytearray(render_table([ROWS["choice"]] * 3, "choice"))
    at %= len(content)
    content[at : at + 3] = b"\xff\x00\x7f"
    try:
        assert parse_table(bytes(content), "choice", 3).num_rows == 3
    except ValueError as error:
        assert str(error)
