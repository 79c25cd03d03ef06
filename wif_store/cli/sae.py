"""``wif-store sae``: sparse autoencoders of a store's layers."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wif_store.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

sae_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Train a sparse autoencoder on a store, for features to probe.",
)


@sae_app.command()
def train(
    store: Annotated[str, typer.Argument(help="A store: a folder or a URL.", metavar="STORE")],
    layer: Annotated[int, typer.Option(help="0-based decoder layer of which the store has sequences.")],
    out: Annotated[Path, typer.Option(help="The folder to write, in SAELens' format.")],
    width: Annotated[
        int | None,
        typer.Option(min=1, help="Features. Default: 8 for each channel of the model.", show_default=False),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Features that are active at a token.")] = 32,
    tokens: Annotated[
        int,
        typer.Option(
            min=1, help="Tokens to train on; those of the store are repeated until there are so many."
        ),
    ] = 200_000,
    seed: Annotated[
        int, typer.Option(min=0, help="Fixes the tokens, their order and the first weights.")
    ] = 0,
) -> None:
    """Train one on the sequences of a store."""
    from wif_store.sae.training import train_sae
    from wif_store.store.reader import open_store

    opened = open_store(store)
    with _bar(f"layer {layer}") as progress:
        found = train_sae(opened, layer, out, width=width, k=k, tokens=tokens, seed=seed, progress=progress)
    left_out = f", {found.outliers} of outlying norm left out" if found.outliers else ""
    told = [
        f"{out}: {found.width} features, {k} active at a token, of layer {layer} of {store}",
        f"  trained on {found.tokens} tokens of the train split{left_out}",
        f"  variance explained on validation tokens: {found.variance_explained:.4f}",
        f"  {found.dead} features are active at none of the train tokens",
    ]
    typer.echo(printable("\n".join(told)))


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        line = bars.add_task(f"{name}: reading", total=None)

        def progress(done: int, total: int) -> None:
            bars.update(line, description=f"{name}: training", completed=done, total=total)

        yield progress
