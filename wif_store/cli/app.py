"""The command line. Each command imports what it needs in its body, so that ``--help`` is quick."""

from __future__ import annotations

import errno
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from wif_store.cli.as_json import AsJson, print_error, print_json
from wif_store.cli.build_command import build_command
from wif_store.cli.explain import explain_command, quiz_command
from wif_store.cli.grouped import Grouped
from wif_store.cli.sae import sae_app
from wif_store.cli.score import score_command
from wif_store.cli.steer import steer_command
from wif_store.errors import StoreError, WifError, printable

app = typer.Typer(
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: half the time, and an error is a line
)

Store = Annotated[
    Path, typer.Argument(help="A store: a folder that `wif-store build` wrote.", metavar="STORE")
]


INTERRUPTED: Final = 130
"""The exit status of a command that Ctrl-C stopped."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from wif_store import __version__

        typer.echo(f"wif-store {__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Say which version this is.", callback=_print_version, is_eager=True),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file of settings: a table for each command. Default: [tool.wif-store] of "
            "pyproject.toml here.",
            show_default=False,
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say which settings are of a file.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No bars and no remarks: results and errors alone.")
    ] = False,
) -> None:
    """Residual-stream activations with success labels: build, check, publish and score them."""
    from wif_store.cli.config import read_config
    from wif_store.progress import be_quiet

    be_quiet(quiet)
    ctx.obj = {"verbose": verbose}
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        return
    if "--help" in sys.argv[1:]:
        return
    ctx.default_map = read_config(config, ctx.command.commands)  # type: ignore[attr-defined]


app.command("build", cls=Grouped)(build_command)


@app.command(cls=Grouped)
def tasks(
    word: Annotated[str, typer.Argument(help="Only names that hold this word.", metavar="WORD")] = "",
    as_json: AsJson = False,
) -> None:
    """List the tasks that a build takes, by a word in their names."""
    from wif_store.cli.tasks import found_tasks, list_tasks

    if as_json:
        print_json("tasks", found_tasks(word))
        return
    for line in list_tasks(word):
        typer.echo(printable(line))


@app.command(cls=Grouped)
def info(store: Store, as_json: AsJson = False) -> None:
    """Say what a store holds and how it was made."""
    from wif_store.builder.journal import Journal
    from wif_store.cli.store import describe_store, summary_of
    from wif_store.store.reader import open_store

    journal = Journal(store)
    if journal.begun() and not store.exists():
        if as_json:
            raise StoreError(journal.describe())
        typer.echo(printable(journal.describe()))
        raise typer.Exit(1)
    opened = open_store(store)
    if as_json:
        print_json("info", summary_of(opened))
    else:
        typer.echo(printable(describe_store(opened)))


@app.command(cls=Grouped)
def verify(
    store: Store,
    recompute: Annotated[
        int, typer.Option(min=0, help="Run the model again over this many examples and compare.")
    ] = 0,
    model: Annotated[
        str | None, typer.Option(help="Where the model is; default: what the store records.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Where the rows are; default: what the store records.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Where the model's adapter is; default: what the store records.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every checksum and every invariant of a store."""
    from wif_store.store.verify import verify_store

    report = verify_store(store)
    if not as_json:
        name = printable(str(store))
        typer.echo(f"{name}: {report.files} files, {report.size / 1e6:.1f} MB: every checksum holds")
        typer.echo(f"{name}: {report.examples} examples: {report.invariants} invariants hold")
    found = None
    if recompute:
        from wif_store.extract.recompute import recompute as recompute_sample
        from wif_store.store.reader import open_store

        found = recompute_sample(open_store(store), recompute, model=model, source=source, adapter=adapter)
    if as_json:
        again = None if found is None else {**asdict(found), "labels": found.labels}
        print_json("verify", {"path": str(store), **asdict(report), "recomputed": again})
    elif found is not None:
        typer.echo(printable(f"{store}: {found}"))


@app.command(cls=Grouped)
def audit(store: Store, as_json: AsJson = False) -> None:
    """Count flaws that an AUC does not show. Repeats, crossings, cut prompts and leaked answers."""
    from wif_store.cli.store import describe_audit
    from wif_store.store.audit import FLAWS, audit_store
    from wif_store.store.reader import open_store

    opened = open_store(store)
    found, published = audit_store(opened), opened.manifest.audit.get("published_source")
    if as_json:
        print_json("audit", {"path": str(store), **found, "published": published, "meanings": dict(FLAWS)})
    else:
        typer.echo(printable(describe_audit(found, published)))


@app.command(cls=Grouped)
def push(
    stores: Annotated[
        list[Path] | None,
        typer.Argument(help="Stores; default: every finished one of Gemma-2 2B.", metavar="STORE"),
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option(
            help="The dataset: OWNER/NAME. Default, for Gemma-2 2B alone: whyitfailed/gemma2-acts",
            show_default=False,
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="If it is made now, let few see it.")] = False,
    revision: Annotated[str, typer.Option(help="The branch to publish on.")] = "main",
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be uploaded, and stop.")] = False,
    tag: Annotated[
        str | None, typer.Option(help="Tag what is published, as in v1.", show_default=False)
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Show these scores on the card: the folder of `score --out`.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish stores as a dataset on the Hub. The same command goes on after a stop."""
    from wif_store.cli.hub import push_stores
    from wif_store.hub.push import Target

    found = push_stores(
        stores or [], repo, Target(revision, create_pr, private, tag), dry_run=dry_run, results=results
    )
    if as_json:
        print_json("push", found)


@app.command(cls=Grouped)
def pull(
    repo: Annotated[str, typer.Argument(help="The dataset: OWNER/NAME.", metavar="REPO")],
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task; repeat for more.", show_default=False)
    ] = None,
    layers: Annotated[str, typer.Option(help="all, or 0-based layers as in 0,4,9-12: a part.")] = "all",
    revision: Annotated[str, typer.Option(help="A branch, tag or commit.")] = "main",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for {task}.zarr. Default: stores/{repo}", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch stores from the Hub and verify every byte. The same command goes on after a stop."""
    from wif_store.cli.hub import pull_stores

    pulled = pull_stores(repo, task or [], layers, revision, out)
    if as_json:
        print_json("pull", {"stores": [asdict(store) | {"path": str(store.path)} for store in pulled]})


app.command("score", cls=Grouped)(score_command)
app.command("explain", cls=Grouped)(explain_command)
app.command("quiz", cls=Grouped)(quiz_command)
app.command("steer", cls=Grouped)(steer_command)
app.add_typer(sae_app, name="sae")


def main() -> None:
    """Run the command line: an error is one line on standard error, and exit status 1, or 2 for its usage."""
    try:
        status = app(standalone_mode=False) or 0
    except WifError as error:
        status = 1
        print_error(type(error).__name__, str(error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        status = 1
        print_error("OSError", "there is no space left to write to: free some, then run the same command")
    except typer.TyperException as error:
        status = error.exit_code
        print_error("UsageError", error.format_message())
    if status == INTERRUPTED:
        typer.echo("stopped: run the same command to go on", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
