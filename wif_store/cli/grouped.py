"""A command whose options are shown in groups, and which says where its settings came from."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from wif_store.errors import printable


class Grouped(TyperCommand):
    """Shows options below the ``rich_help_panel`` that each has, in the order in which these first come."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the groups."""
        groups: dict[str, list[Any]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                panel = getattr(parameter, "rich_help_panel", None) or "Options"
                groups.setdefault(panel, []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; under ``-v`` say first which settings are of a file."""
        if ctx.obj and ctx.obj.get("verbose"):
            for name, value in (ctx.default_map or {}).items():
                source = ctx.get_parameter_source(name)
                taken = source is not None and source.name == "DEFAULT_MAP"
                said = "is used" if taken else "is not used: the command line says otherwise"
                key = next(p.opts[0].removeprefix("--") for p in self.params if p.name == name)
                typer.echo(printable(f"{key} = {value!r} of the file of settings {said}"), err=True)
        return super().invoke(ctx)
