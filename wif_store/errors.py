"""Every error this package raises on purpose.

::

    WifError
    ├── ConfigError      a file of settings that says what no command knows
    ├── SourceError      a task's rows: missing, mistyped, empty, contradictory
    ├── TaskError        an unknown task or protocol
    ├── LayersError      a text that names no layers, or layers that are not there
    ├── ModelError       a model that cannot be had or cannot be read
    ├── ResidualError    a number that must not be stored (NaN, infinity)
    ├── SelectionError   k successes and k failures cannot be reached
    ├── BuildError       an output folder that is taken, locked or full
    ├── StoreError       a store that is unfinished or of another format
    │   └── DamageError  bytes that are not the bytes that were written
    ├── SaeError         a sparse autoencoder that cannot be had, is of another model, or cannot be trained
    ├── ScoreError       a probe or a prediction file that cannot be scored
    ├── SteerError       a direction that is none, or examples that cannot be run again
    └── PublishError     the Hub, or what it holds, refuses

A message is one line that says what was found, what was expected and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class WifError(Exception):
    """Base of all errors a user can mend; the command line prints it as one line."""


class ConfigError(WifError):
    """A file of settings cannot be read, or says something that no command knows."""


class SourceError(WifError):
    """The rows of a task cannot be used as they are."""


class TaskError(WifError):
    """No such task, or no such protocol of it."""


class LayersError(WifError):
    """A text that is to name layers names none, or layers that are not there."""


class ModelError(WifError):
    """A model cannot be had, or its residual stream cannot be read."""


class ResidualError(WifError):
    """A residual is NaN or infinite; the message names the example and the layer."""


class SelectionError(WifError):
    """The source runs out before both classes are full."""


class BuildError(WifError):
    """The output cannot be written, or belongs to something else."""


class StoreError(WifError):
    """A store is missing, unfinished or of another format version."""


class DamageError(StoreError):
    """A file of the store is missing or does not hold what was written."""


class SaeError(WifError):
    """A sparse autoencoder cannot be had, does not belong to the store, or cannot be trained."""


class ScoreError(WifError):
    """A probe, a split or a predictions file cannot be scored."""


class SteerError(WifError):
    """A direction cannot be used, or the examples of a store cannot be run again with it."""


class PublishError(WifError):
    """A dataset cannot be published, fetched or verified."""


def one_line(error: BaseException) -> str:
    """What an error says, folded to one line that is not too long; its type where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line that an error says, not too long: libraries put advice of their own below it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip()[:300]


def names_in_line(names: Iterable[str]) -> str:
    """Names of fields on one line that is not too long, whatever stands in the file they are from."""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names)[:200]


def printable(text: str) -> str:
    r"""A text that a terminal obeys in nothing but newlines and tabs: other controls are spelled out.

    Example:
        >>> printable("\x1b[2Jgone")
        '\\x1b[2Jgone'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
