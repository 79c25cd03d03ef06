"""Bars where somebody looks on; elsewhere a line says every so often how far the work is.

How bars look in a notebook is seen in the tests of the examples, which run in a kernel.
"""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console
from rich.progress import TextColumn

import wif_store
from tests.support.stores import make_store
from wif_store import progress
from wif_store.progress import BYTES, bars, line_of, telling, working


@pytest.fixture
def log(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.05)
    return Console(file=io.StringIO(), width=40)


def lines(console):
    return console.file.getvalue().splitlines()


def test_a_log_has_a_line_for_all_that_goes_on(log):
    with bars(log, TextColumn(""), unit="examples") as shown:
        first = shown.add_task("boolq", total=None, note="")
        shown.update(first, completed=1200, total=4000, note="261 tokens/s, 8 of 8 pairs")
        time.sleep(0.2)
        shown.update(first, completed=4000)
        time.sleep(0.1)
        last = len(lines(log))
        time.sleep(0.2)
    assert lines(log)[0] == "boolq: 1,200 of 4,000 examples, 261 tokens/s, 8 of 8 pairs, about 0:00:00 left"
    assert 2 <= last <= 6
    # Nothing is said of what is done.
    assert len(lines(log)) == last


def test_a_terminal_has_bars_and_no_lines(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.05)
    terminal = Console(file=io.StringIO(), force_terminal=True)
    with bars(terminal, TextColumn("{task.description}")) as shown:
        shown.add_task("boolq", total=4)
        time.sleep(0.2)
    assert "of 4" not in terminal.file.getvalue()
    assert "boolq" in terminal.file.getvalue()


def test_the_time_left_is_that_of_the_share_that_is_done(log):
    with bars(log, TextColumn("")) as shown:
        number = shown.add_task("piqa", total=100)
        task = shown.tasks[0]
        task.start_time -= 60
        shown.update(number, completed=25)
        assert re.fullmatch(r"piqa: 25 of 100, about 0:03:0\d left", line_of(task))
        assert re.fullmatch(r"piqa: 2 of 10 MB, about 0:03:0\d left", line_of(task, "MB", 10))
        shown.update(number, completed=0)
        assert line_of(task) == "piqa: 0 of 100, for 0:01:00"
        shown.update(number, total=None)
        assert line_of(task) in ("piqa: 0, for 0:01:00", "piqa: 0 of 100, for 0:01:00")


def test_a_phase_is_named_once_it_takes_a_while(log, monkeypatch):
    with working(log, "quick"):
        pass
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    with working(log, "loading \x1b[2J[red]model"):
        time.sleep(0.2)
        assert lines(log) == ["loading \\x1b[2J[red]model"]


def test_a_failure_ends_the_lines(log):
    with pytest.raises(ValueError, match="no"), bars(log, TextColumn("")) as shown:
        shown.add_task("x", total=3)
        msg = "no"
        raise ValueError(msg)
    said = len(lines(log))
    time.sleep(0.15)
    assert len(lines(log)) == said


@pytest.mark.parametrize("asked", [None, False])
def test_a_call_from_python_says_nothing_of_itself(asked, capfd, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    with telling(asked, "baselines", "fits") as told:
        told("boolq", 1, 4)
        time.sleep(0.05)
    assert capfd.readouterr() == ("", "")


def test_bars_are_shown_where_they_are_asked_for(capfd, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    for unit, total in (("fits", 4), (BYTES, 4 * 10**6)):
        with telling(True, "baselines", unit) as told:
            told("boolq", total // 4, total)
            time.sleep(0.1)
    out, err = capfd.readouterr()
    assert out == ""
    assert "boolq: 1 of 4 fits, about 0:00:00 left" in err
    assert "boolq: 1 of 4 MB, about 0:00:00 left" in err
    assert "baselines: " not in err


def test_every_fit_is_told_of(tmp_path):
    told = []
    store = wif_store.open_store(make_store(tmp_path / "winogrande.zarr", per_class=40))
    wif_store.score(store, ["logistic", "lda"], "0,2", progress=lambda *how: told.append(how))
    assert told == [("winogrande", done, 4) for done in range(5)]
