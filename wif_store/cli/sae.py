"""``wif-store sae``: sparse autoencoders of a store's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wif_store.errors import printable
from wif_store.progress import bar

sae_app = typer.Typer(
    rich_markup_mode=None,
    help="Train a sparse autoencoder on stores, for features to probe.",
)


@sae_app.command()
def train(
    stores: Annotated[
        list[str], typer.Argument(help="Stores of one model: folders or URLs.", metavar="STORE...")
    ],
    layer: Annotated[int, typer.Option(help="0-based decoder layer of which they have sequences.")],
    out: Annotated[Path, typer.Option(help="The folder to write, in SAELens' format.")],
    width: Annotated[
        int | None,
        typer.Option(min=1, help="Features. Default: 8 for each channel of the model.", show_default=False),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Features that are active at a token.")] = 32,
    tokens: Annotated[
        int,
        typer.Option(
            min=1, help="Tokens to train on; those of the stores are repeated until there are so many."
        ),
    ] = 200_000,
    seed: Annotated[
        int, typer.Option(min=0, help="Fixes the tokens, their order and the first weights.")
    ] = 0,
) -> None:
    """Train one on the sequences of stores."""
    from wif_store.sae.training import train_sae
    from wif_store.store.reader import open_store

    opened = [open_store(store) for store in stores]
    with bar(f"layer {layer}", "steps") as progress:
        found = train_sae(opened, layer, out, width=width, k=k, tokens=tokens, seed=seed, progress=progress)
    left_out = f", {found.outliers} of outlying norm left out" if found.outliers else ""
    told = [
        f"{out}: {found.width} features, {k} active at a token, of layer {layer} of {', '.join(stores)}",
        f"  trained on {found.tokens} tokens of train{left_out}",
        f"  variance explained on validation tokens: {found.variance_explained:.4f}",
        f"  {found.dead} features are active at none of the train tokens",
    ]
    typer.echo(printable("\n".join(told)))
