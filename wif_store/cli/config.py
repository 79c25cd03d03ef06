"""Settings of commands from a TOML file, so that a build is a file under version control."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wif_store.errors import ConfigError, first_line

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT: Final = Path("pyproject.toml")
TABLE: Final = "wif-store"
"""The table of ``pyproject.toml`` below ``tool``."""


def read_config(path: Path | None, commands: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a file says of commands, by command and by parameter.

    Each command is a table, and each of its options a key without its dashes: ``[build]`` with
    ``per-class = "max"``. What may be repeated is a list.

    Args:
        path: The file; None for ``[tool.wif-store]`` of the project in the working folder, if there is one.
        commands: The commands, by name.

    Raises:
        ConfigError: If the file cannot be read, or says something that no command knows.
    """
    given = path or PROJECT
    if path is None and not PROJECT.is_file():
        return {}
    try:
        with given.open("rb") as file:
            content: Any = tomllib.load(file)
    except (OSError, ValueError, RecursionError) as error:
        if path is None:
            return {}  # nobody asked for it, and it is others' to mend
        msg = f"{given} cannot be read ({first_line(error)}); expected a TOML file"
        raise ConfigError(msg) from error
    if given.name == PROJECT.name:
        tool = content.get("tool", {})
        content = tool.get(TABLE, {}) if isinstance(tool, dict) else {}
    if not isinstance(content, dict):
        msg = f"{given}: [tool.{TABLE}] is {content!r:.80}; expected a table for each command"
        raise ConfigError(msg)
    return {name: _settings(f"{given}: [{name}]", name, table, commands) for name, table in content.items()}


def _settings(where: str, name: str, table: Any, commands: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one command, or of the commands below it."""
    if name not in commands:
        msg = f"{where} is for a command that there is not{_nearest(name, commands)}"
        raise ConfigError(msg)
    if not isinstance(table, dict):
        msg = f"{where} is {table!r:.80}; expected a table of options"
        raise ConfigError(msg)
    command = commands[name]
    if below := getattr(command, "commands", None):
        return {key: _settings(f"{where[:-1]}.{key}]", key, value, below) for key, value in table.items()}
    by_key = {
        option.removeprefix("--"): parameter
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
    }
    found = {}
    for key, value in table.items():
        if key not in by_key:
            msg = f"{where} has {key}, which is no option of the command{_nearest(key, by_key)}"
            raise ConfigError(msg)
        parameter = by_key[key]
        if isinstance(value, list) and not parameter.multiple and all(type(v) in (int, float) for v in value):
            value = ",".join(map(str, value))  # numbers, as in strength = [1, 3]
        several = isinstance(value, list)
        if isinstance(value, dict) or (several and not parameter.multiple):
            msg = f"{where}: {key} is {value!r:.80}; expected one value"
            raise ConfigError(msg)
        found[parameter.name] = value if several or not parameter.multiple else [value]
    return found


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; expected one of: {', '.join(sorted(known))}"
