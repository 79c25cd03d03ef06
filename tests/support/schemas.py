"""What ``--json`` prints, held against the schemas in the documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def schema(name: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / f"{name}.json").read_text())


def checked(name: str, printed: str) -> dict[str, Any]:
    """The one object that a command printed, after it was found to be of its schema."""
    [line] = printed.splitlines()
    found = json.loads(line)
    jsonschema.validate(found, schema(name), jsonschema.Draft202012Validator)
    return found
