"""The command line. Each command imports what it needs in its body, so that ``--help`` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wif_store.cli.explain import explain_command, quiz_command
from wif_store.cli.sae import sae_app
from wif_store.cli.score import score_command
from wif_store.cli.steer import steer_command
from wif_store.errors import WifError, printable
from wif_store.tasks import names

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: half the time, and an error is a line
)

Store = Annotated[
    Path, typer.Argument(help="A store: a folder that `wif-store build` wrote.", metavar="STORE")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from wif_store import __version__

        typer.echo(f"wif-store {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Say which version this is.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Residual-stream activations with success labels: build, check, publish and score them."""


@app.command()
def build(
    task: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(names())}, or all; lm_eval/NAME of the harness (`wif-store tasks` lists them); "
            "or your own rows: a file, a folder, a glob or a dataset on the Hub."
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="gemma3-270m (embedded), a Hub id or id@revision, a folder or a .gguf file; repeat for "
            "more. Default: google/gemma-2-2b",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="builtin; a .jsonl, .json, .csv, .tsv or .parquet file (.gz too), or a folder or glob of "
            "Parquet; a save_to_disk FOLDER or FOLDER:SPLIT; a dataset on the Hub: ID, ID:SPLIT or "
            "ID@REVISION:CONFIG/SPLIT. {task} stands for the task. Default: the task's own dataset.",
            show_default=False,
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="aligned, mcq, cot or paper. Default: the task's first, which is aligned for ours.",
            show_default=False,
        ),
    ] = None,
    cot: Annotated[
        bool, typer.Option("--cot", help="Ask for steps before the answer: --protocol cot.")
    ] = False,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="What ends a written answer; repeat for more. Default: the task's.", show_default=False
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Of a written answer, at most. Default: the task's.", show_default=False),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="Of a written answer. Default: 0, the likeliest token.", show_default=False),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Answers to each prompt, for a success rate. Default: 1", show_default=False
        ),
    ] = None,
    grade: Annotated[
        str | None,
        typer.Option(
            help="Of own rows with targets: exact, contains, number or regex:PATTERN. Default: exact",
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        str, typer.Option(help="What own rows call their columns: prompt=question,...", show_default=False)
    ] = "",
    fewshot: Annotated[
        int | None,
        typer.Option(min=0, help="Examples in the prompts of a harness task.", show_default=False),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="The verdict of a harness task. Default: accuracy or exact match.")
    ] = None,
    filter_name: Annotated[
        str | None,
        typer.Option("--filter", help="A harness task's filter of responses. Default: its first."),
    ] = None,
    layers: Annotated[
        str,
        typer.Option(
            help="Decoder layers read at the final token: all, auto (every fifth) or 0-based: 0,4,9-12."
        ),
    ] = "all",
    sequence_layers: Annotated[
        str, typer.Option(help="Decoder layers read at every token: likewise, or none.")
    ] = "auto",
    per_class: Annotated[
        str, typer.Option(help="Successes, and failures, to keep: a number, or max for all pairs there are.")
    ] = "2000",
    splits: Annotated[
        str, typer.Option(help="seeded, or published: the split that the source carries.")
    ] = "seeded",
    seed: Annotated[int, typer.Option(help="Fixes which examples are kept, and their splits.")] = 0,
    skip_too_long: Annotated[
        bool,
        typer.Option("--skip-too-long", help="Leave out and count rows longer than the model's context."),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="Of the forward pass: bfloat16, float32 or float16.")
    ] = "bfloat16",
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens of one forward pass. Default: what suits the device.", show_default=False
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples of one forward pass, at most.")] = 512,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Wrap prompts in the chat template.")
    ] = False,
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="An argument of the chat template, as in enable_thinking=false; repeat for more.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="CPU threads of a forward pass. Default: what this process may use.",
            show_default=False,
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the model repository's own code run.")
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            help="A folder or a URL (s3://, gs://); {task} and {model} stand for names. "
            "Default: stores/{model}/{protocol}/{task}.zarr",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate tokens and bytes of each store, and stop.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="local, or ray: work for many processes or machines.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="A running cluster: auto or HOST:PORT. Default: Ray starts here, for this build.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Ray workers. Default: one on each GPU, or one where there is none.",
            show_default=False,
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(min=0, help="Default: 1 where the cluster has GPUs, else 0.", show_default=False),
    ] = None,
) -> None:
    """Run a model over a task and write its store. The same command goes on after a stop."""
    from wif_store.api import DEFAULT_MODEL, BuildOptions
    from wif_store.cli.build import parse_template, run_builds
    from wif_store.tasks.lookup import parse_columns

    options = BuildOptions(
        task=task,
        models=tuple(model or [DEFAULT_MODEL]),
        source=source,
        protocol=protocol,
        cot=cot,
        grade=grade,
        columns=parse_columns(columns),
        fewshot=fewshot,
        metric=metric,
        filter=filter_name,
        stop=tuple(stop) if stop else None,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        samples=samples,
        layers=layers,
        sequence_layers=sequence_layers,
        per_class=per_class,
        splits=splits,
        seed=seed,
        skip_too_long=skip_too_long,
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
        batch_size=batch_size,
        chat_template=chat_template,
        template=parse_template(template or []),
        threads=threads,
        trust_remote_code=trust_remote_code,
        out=out,
        engine=engine,
        ray_address=ray_address,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
    )
    run_builds(options, dry_run=dry_run)


@app.command()
def tasks(
    word: Annotated[str, typer.Argument(help="Only names that hold this word.", metavar="WORD")] = "",
) -> None:
    """List the tasks that a build takes, by a word in their names."""
    from wif_store.cli.tasks import list_tasks

    for line in list_tasks(word):
        typer.echo(printable(line))


@app.command()
def info(store: Store) -> None:
    """Say what a store holds and how it was made."""
    from wif_store.builder.journal import Journal
    from wif_store.cli.store import describe_store
    from wif_store.store.reader import open_store

    journal = Journal(store)
    if journal.begun() and not store.exists():
        typer.echo(printable(journal.describe()))
        raise typer.Exit(1)
    typer.echo(printable(describe_store(open_store(store))))


@app.command()
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
) -> None:
    """Check every checksum and every invariant of a store."""
    from wif_store.store.verify import verify_store

    report = verify_store(store)
    typer.echo(f"{store}: {report.files} files, {report.size / 1e6:.1f} MB: every checksum holds")
    typer.echo(f"{store}: {report.examples} examples: {report.invariants} invariants hold")
    if recompute:
        from wif_store.extract.recompute import recompute as recompute_sample
        from wif_store.store.reader import open_store

        found = recompute_sample(open_store(store), recompute, model=model, source=source)
        typer.echo(f"{store}: {found}")


@app.command()
def audit(store: Store) -> None:
    """Count flaws that an AUC does not show. Repeats, crossings, cut prompts and leaked answers."""
    from wif_store.cli.store import describe_audit
    from wif_store.store.audit import audit_store
    from wif_store.store.reader import open_store

    opened = open_store(store)
    typer.echo(printable(describe_audit(audit_store(opened), opened.manifest.audit.get("published_source"))))


@app.command()
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
) -> None:
    """Publish stores as a dataset on the Hub. The same command goes on after a stop."""
    from wif_store.cli.hub import push_stores
    from wif_store.hub.push import Target

    push_stores(
        stores or [], repo, Target(revision, create_pr, private, tag), dry_run=dry_run, results=results
    )


@app.command()
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
) -> None:
    """Fetch stores from the Hub and verify every byte. The same command goes on after a stop."""
    from wif_store.cli.hub import pull_stores

    pull_stores(repo, task or [], layers, revision, out)


app.command("score")(score_command)
app.command("explain")(explain_command)
app.command("quiz")(quiz_command)
app.command("steer")(steer_command)
app.add_typer(sae_app, name="sae")


def main() -> None:
    """Run the command line: our own errors are one line on standard error and exit status 1."""
    try:
        app()
    except WifError as error:
        typer.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("stopped: run the same command to go on", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
