"""Steer: run examples again with the residual stream moved along what was found, and along controls.

The layer and the strength are chosen on validation, and so is by how much each kind of control is moved for
the same effect on the distribution of the next token. The test split is measured once.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from wif_store.errors import SteerError, WifError
from wif_store.extract.intervention import At
from wif_store.extract.replay import load_recorded, open_replay
from wif_store.format.schema import FINAL_TOKEN, PROMPT_END
from wif_store.progress import telling
from wif_store.steering.bench import Bench, Settings
from wif_store.steering.directions import find_directions
from wif_store.store.reader import ActivationStore

if TYPE_CHECKING:
    from wif_store.extract.model import Model
    from wif_store.extract.replay import Replay
    from wif_store.progress import Told
    from wif_store.scorer.results import Results


def steer(
    stores: ActivationStore | Sequence[ActivationStore],
    probe: str = "logistic",
    *,
    layer: int | None = None,
    strengths: Sequence[float] | None = None,
    at: At = "all",
    ablate: bool = False,
    examples: int = 200,
    site: str | None = None,
    model: str | None = None,
    source: str | None = None,
    adapter: str | None = None,
    confidence: float = 0.999,
    seed: int = 0,
    progress: Told | bool | None = None,
) -> Results:
    """Move the residual stream along what predicts failure, and see whether answers change.

    Args:
        stores: One store a task.
        probe: What gives the direction: a linear probe by name; ``sae:SPEC`` for the feature of a sparse
            autoencoder that tells most, ``sae:SPEC#NUMBER`` for one of them; a ``.safetensors`` of
            ``score --save-probes``; a ``.npy`` of ``[d_model]``.
        layer: The 0-based decoder layer; None for that which is best on validation.
        strengths: Moves to try, in standard deviations along the direction over train; None for two that are
            found on validation: one that moves the distribution of the next token by about half a nat, and a
            third of it.
        at: ``all`` tokens, or the ``final`` one of the context alone, from which the answer is predicted.
        ablate: Project the direction out instead.
        examples: Test examples of each store, at most.
        site: Where the probe reads; None for the final token, or the end of the prompt of written answers.
        model: Where the model is, if not where the stores say.
        source: Where the rows are, if not where the stores say; ``{task}`` in it stands for the task.
        adapter: Where the model's adapter is, if not where the stores say.
        confidence: Of the intervals; ``1 - confidence`` is the level of every verdict.
        seed: Of the random directions.
        progress: Whether a bar is shown, or who is told the task and how many runs of an example are done.
            None shows a bar in a notebook alone.

    Returns:
        What :func:`wif_store.score` gives for the probe, with ``steering``.

    Raises:
        SteerError: If the direction or the strengths cannot be used.
        ModelError: If the model cannot be had, or is of another revision.
        SourceError: If the rows cannot be had, or are others.
        DamageError: If the model does not give the log-likelihoods of the store.

    Example::

        results = wif_store.steer(store, examples=40)
        results.steering[0].against_random.verdict
    """
    held = list(stores) if isinstance(stores, Sequence) and not isinstance(stores, str) else [stores]
    if not held or not all(isinstance(store, ActivationStore) for store in held):
        msg = f"stores is {stores!r:.80}; expected what wif_store.open_store gives, at least one"
        raise SteerError(msg)
    probe = str(probe)
    settings = _settings(strengths, at, ablate, examples, confidence, seed)
    sites = {_site(store, site) for store in held}
    if len(sites) != 1:
        msg = "stores of choices and of written answers are given together; steer one kind at a time"
        raise SteerError(msg)
    [read_at] = sites
    directions, results = find_directions(held, probe, layer, read_at, confidence)
    models: dict[Any, Model] = {}
    replays = []
    for store in held:
        record = store.manifest.model
        key = (store.manifest.model_name, record["dtype"])
        if key not in models:
            models[key] = load_recorded(store, model, adapter)
        rows = None if source is None else source.replace("{task}", store.task)
        replays.append(_replay(store, models[key], rows))
    # What is missing of any store is said before the first is run.
    with telling(progress, "steering", "runs") as told:
        found = [
            Bench(replay, direction, settings, read_at, told).measure()
            for replay, direction in zip(replays, directions, strict=True)
        ]
    said = {
        "steered": probe,
        "strengths": settings.strengths,
        "at": at,
        "ablate": ablate,
        "steered_examples": settings.examples,
        "steering_seed": settings.seed,
    }
    return replace(results, steering=tuple(found), settings={**results.settings, **said})


def _settings(
    strengths: Sequence[float] | None, at: At, ablate: bool, examples: int, confidence: float, seed: int
) -> Settings:
    try:
        given = () if strengths is None else tuple(float(one) for one in strengths)
        count, start = operator.index(examples), operator.index(seed)
    except TypeError as error:
        msg = f"strengths, examples or seed cannot be used ({error}); expected numbers, a count and a seed"
        raise SteerError(msg) from None
    if given and ablate:
        msg = "strengths are for moves, and a direction that is projected out is out: leave them out"
        raise SteerError(msg)
    if start < 0:
        msg = f"the seed is {start}; expected 0 or more"
        raise SteerError(msg)
    if not all(math.isfinite(one) and one > 0 for one in given) or len(set(given)) < len(given):
        said = ", ".join(f"{one:g}" for one in given)
        msg = f"the strengths are {said}; expected different numbers above 0, as in 1,3"
        raise SteerError(msg)
    if at not in get_args(At):
        msg = f"at is {at!r}; expected one of: {', '.join(get_args(At))}"
        raise SteerError(msg)
    if count < 2:
        msg = f"examples is {count}; expected at least 2"
        raise SteerError(msg)
    tried = tuple(sorted(given)) or ((1.0,) if ablate else None)
    return Settings(tried, at, ablate, count - count % 2, confidence, start)


def _site(store: ActivationStore, given: str | None) -> str:
    """Where the probe reads.

    Raises:
        SteerError: If the answers of the store cannot be written again.
    """
    if store.manifest.outcome == "choice":
        return given or FINAL_TOKEN
    generation = store.manifest.protocol.get("generation")
    if not generation:
        msg = (
            f"the answers of task {store.task!r} were written elsewhere, so the model cannot be steered there"
        )
        raise SteerError(msg)
    if generation.get("temperature"):
        msg = (
            f"the answers of task {store.task!r} were drawn at temperature {generation['temperature']:g}, so "
            "they change by themselves: build the store with --temperature 0"
        )
        raise SteerError(msg)
    return given or PROMPT_END


def _replay(store: ActivationStore, model: Model, source: str | None) -> Replay:
    try:
        return open_replay(store, model, source)
    except WifError as error:
        if store.name in str(error):
            raise
        msg = f"{store.name}: {error}"
        raise type(error)(msg) from error
