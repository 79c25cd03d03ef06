"""``wif-store steer``: does moving the model along what was found change its answers?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wif_store.cli import choices
from wif_store.cli.as_json import AsJson, print_json
from wif_store.cli.score import check_writable, find_stores, write_results
from wif_store.errors import SteerError, printable
from wif_store.progress import bars_by_name


def steer_command(
    stores: Annotated[
        list[str],
        typer.Argument(help="Stores, folders of stores, or Hub datasets (OWNER/NAME).", metavar="STORE..."),
    ],
    probe: Annotated[
        str,
        typer.Option(
            help="What gives the direction: a linear probe by name; sae:SPEC for the feature of an SAE that "
            "tells most, sae:SPEC#NUMBER for one; a .safetensors of `score --save-probes`; a .npy.",
            autocompletion=choices.probes,
        ),
    ] = "logistic",
    layer: Annotated[
        int | None,
        typer.Option(
            min=0, help="0-based. Default: the best on validation, or that of a file.", show_default=False
        ),
    ] = None,
    strength: Annotated[
        str | None,
        typer.Option(
            help="Moves to try, in standard deviations along the direction. Default: two that validation "
            "gives.",
            show_default=False,
        ),
    ] = None,
    at: Annotated[
        choices.At,
        typer.Option(help="Where: all tokens, or the final one of the context, before the answer."),
    ] = "all",
    ablate: Annotated[bool, typer.Option("--ablate", help="Project the direction out instead.")] = False,
    examples: Annotated[
        int, typer.Option(min=2, help="Test examples of each store, at most; an even number.")
    ] = 200,
    site: Annotated[
        str | None,
        typer.Option(
            help="Where the probe reads. Default: final_token, or prompt_end of written answers.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the model is; default: what the store records.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Where the rows are; {task} stands for the task. Default: what the store records."),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Where the model's adapter is; default: what the store records.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random directions.")] = 0,
    confidence: Annotated[float, typer.Option(help="Of the intervals; the level of the verdicts.")] = 0.999,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for what `score --out` writes, and steering.png.", file_okay=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """See whether answers change when the model is moved."""
    from wif_store.scorer.report import sections
    from wif_store.scorer.tables import to_text
    from wif_store.steering.run import steer
    from wif_store.store.reader import open_store

    strengths = _numbers(strength)
    if out is not None:
        check_writable(out)
    opened = [open_store(path) for given in stores for path in find_stores(given)]
    with bars_by_name(f"fitting {probe}", "runs of an example") as told:
        results = steer(
            opened,
            probe,
            layer=layer,
            strengths=strengths,
            at=at,
            ablate=ablate,
            examples=examples,
            site=site,
            model=model,
            adapter=adapter,
            source=source,
            seed=seed,
            confidence=confidence,
            progress=lambda task, done, total: told(f"steering {task}", done, total),
        )
    if not as_json:
        typer.echo(printable(to_text(sections(results))))
    if out is not None:
        write_results(results, out, quiet=as_json)
    if as_json:
        print_json("steer", {"results": results.to_json()})


def _numbers(text: str | None) -> list[float] | None:
    """``1,3`` -> numbers.

    Raises:
        SteerError: If it is no such text.
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        msg = f"--strength is {text!r}; expected numbers above 0, as in 1,3"
        raise SteerError(msg) from None
