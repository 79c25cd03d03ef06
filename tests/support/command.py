"""The command line, run in this process, which has torch loaded already."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from wif_store.cli import app


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(*arguments):
    """Run the command line; what it printed, and its exit status."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["wif-store", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        try:
            app.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    return Done(code, out.getvalue(), err.getvalue())


def build(model, source, out, *more):
    return run("build", "--task", "winogrande", "--model", model, "--source", source, "--out", out, *more)
