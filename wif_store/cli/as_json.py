"""``--json``: what a command found, as one JSON object on standard output.

``docs/schemas/NAME.json`` describes each object. Bars, remarks and errors go to standard error as ever. A
command that fails prints an object of the schema ``error``, too.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from wif_store.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION: Final = 1
"""Of the schemas: a field is added under the same number, and taken away or changed under the next."""

AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on standard output."),
]


def print_json(name: str, content: Mapping[str, Any]) -> None:
    """Print an object of a schema: one line, in ASCII."""
    typer.echo(json.dumps({"schema": f"wif-store-{name}", "schema_version": VERSION, **content}, default=str))


def print_error(kind: str, message: str) -> None:
    """Print an error as a line, and as an object where one is asked for, whatever else was read."""
    line = printable(message)
    if "--json" in sys.argv[1:]:
        with suppress(OSError):  # what the error is about may be standard output itself
            print_json("error", {"error": kind, "message": line})
    typer.echo(f"error: {line}", err=True)
