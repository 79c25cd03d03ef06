"""One store on the bench: its strength and its controls are set on validation, then test is measured once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wif_store.extract.intervention import At, Intervention
from wif_store.extract.rerun import Rerun
from wif_store.scorer.sites import at_site
from wif_store.scorer.steered import MEANS, RANDOM, Dose, Effect, Steering
from wif_store.steering.blocks import Blocks
from wif_store.steering.directions import difference_of_means, random_directions
from wif_store.steering.outcomes import Outcomes, Resampling

if TYPE_CHECKING:
    from wif_store.extract.replay import Replay
    from wif_store.scorer.stats import Floats
    from wif_store.steering.directions import Direction

KINDS: Final = ("covariance", "isotropic")
"""What random directions are drawn like."""
EACH: Final = 10
"""Random directions of each kind."""
MOST_KL: Final = 1.0
"""Nats by which the distribution of the next token may move: beyond, the model is another one."""
SHARE: Final = 5
"""One validation example for so many test examples."""
TRIES: Final = 3
"""How often the factor of a kind of control is measured."""

Told = Callable[[str, int, int], None]
"""Told the task, and how many runs of an example of how many are done."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a caller decides.

    Attributes:
        strengths: Which moves are tried; shares of the direction where it is projected out.
        at: The tokens that are moved.
        ablate: Whether the direction is projected out.
        examples: Test examples, at most.
        confidence: Of the intervals.
        seed: Of the random directions.
    """

    strengths: tuple[float, ...]
    at: At
    ablate: bool
    examples: int
    confidence: float
    seed: int

    @property
    def signs(self) -> tuple[int, ...]:
        """Along the direction and against it; there is one way to project out."""
        return (1,) if self.ablate else (1, -1)


class Bench:
    """One store, with the directions that its examples are moved along."""

    def __init__(
        self, replay: Replay, direction: Direction, settings: Settings, site: str, progress: Told | None
    ) -> None:
        self.replay, self.direction, self.settings, self.progress = replay, direction, settings, progress
        view, layer = at_site(replay.store, site), direction.layer
        rng = np.random.default_rng(settings.seed)
        self.units: dict[str, Floats] = {
            direction.name: direction.unit[None],
            MEANS: difference_of_means(view, layer)[None],
            **{kind: random_directions(view, layer, EACH, rng, kind) for kind in KINDS},
        }
        self.factors = dict.fromkeys(self.units, 1.0)
        self.rerun = Rerun(replay.extractor, layer)
        test = settings.examples
        held = max(2, test // SHARE // 2 * 2)
        self.examples = {
            split: replay.store.examples(split)[:count]
            for split, count in (("validation", held), ("test", test))
        }
        doses = len(settings.strengths) * len(settings.signs)
        self.on_test = len(self.examples["test"]) * (1 + 3 * doses)
        on_validation = len(self.examples["validation"]) * (1 + doses + TRIES * (len(self.units) - 1))
        self.todo, self.done = on_validation + self.on_test, 0

    def measure(self) -> Steering:
        """Choose on validation, measure on test."""
        strength = self._choose()
        return self._test(strength)

    def _choose(self) -> float:
        """Find the strength that flips most answers and leaves the model itself; set the factors."""
        name, settings = self.direction.name, self.settings
        blocks = self._blocks("validation", EACH)
        before = blocks.run([None])
        best, chosen, target = -1.0, settings.strengths[0], 0.0
        for strength in settings.strengths:
            runs = [blocks.run([self.move(name, 0, sign * strength)]) for sign in settings.signs]
            kl = float(np.mean([run.kl for run in runs]))
            flips = float(np.mean(np.any([run.flips(before) for run in runs], axis=0)))
            if strength == settings.strengths[0] or (kl <= MOST_KL and flips > best):
                best, chosen, target = flips, strength, kl
        for kind in (MEANS, *KINDS):
            self.factors[kind] = self._factor(blocks, kind, chosen, target)
        self.done = self.todo - self.on_test
        return chosen

    def _factor(self, blocks: Blocks, kind: str, strength: float, target: float) -> float:
        """What moves along a kind of control are multiplied by to give a KL.

        For small moves the KL goes with the square of the move.
        """
        factor = 1.0
        for _ in range(TRIES):
            self.factors[kind] = factor
            # Every other direction the other way: none of them has a side.
            moves = [
                self.move(kind, n, strength * self.settings.signs[n % len(self.settings.signs)])
                for n in range(EACH)
            ]
            kl = float(blocks.run(moves).kl.mean())
            if not target or abs(kl - target) <= 0.1 * target:
                break
            factor *= float(np.clip(math.sqrt(target / kl) if kl else 10.0, 1e-3, 10.0))
        return factor if target else 0.0

    def _test(self, chosen: float) -> Steering:
        name, settings, count = self.direction.name, self.settings, len(self.examples["test"])
        signed = [sign * strength for strength in settings.strengths for sign in settings.signs]
        methods = (name, MEANS, RANDOM)
        blocks = self._blocks("test", EACH * len(KINDS))
        conditions: dict[Any, list[Intervention | None]] = {None: [None]}
        for strength in signed:
            conditions[name, strength] = [self.move(name, 0, strength)]
            conditions[MEANS, strength] = [self.move(MEANS, 0, strength)]
            conditions[RANDOM, strength] = [
                self.move(kind, n, strength) for n in range(EACH) for kind in KINDS
            ]
        runs = blocks.run_all(conditions)
        before = runs[None]
        resampling = Resampling(count, blocks.part, settings.confidence)
        doses = tuple(
            self._dose(method, strength, runs[method, strength], before, resampling)
            for method in methods
            for strength in signed
        )
        ways = [sign * chosen for sign in settings.signs]
        flips = {m: np.any([runs[m, way].flips(before) for way in ways], axis=0) for m in methods}
        kl = {m: float(np.mean([runs[m, way].kl for way in ways])) for m in methods}

        def effect(control: str, ends: tuple[float, float]) -> Effect:
            shares = float(flips[name].mean()), float(flips[control].mean())
            return Effect(*shares, shares[0] - shares[1], *ends, kl[name], kl[control])

        push = None
        if not settings.ablate:
            gained = runs[name, chosen].success.astype(float) - runs[name, -chosen].success
            push = (float(gained.mean()), *resampling.interval(gained))
        apart = flips[name].astype(float) - flips[MEANS]
        return Steering(
            task=self.replay.store.task,
            method=name,
            layer=self.direction.layer,
            at=settings.at,
            ablate=settings.ablate,
            strength=chosen,
            spread=self.direction.spread,
            examples=count,
            accuracy=float(before.success.mean()),
            differs=blocks.differs,
            against_random=effect(RANDOM, resampling.interval_of_difference(flips[name], flips[RANDOM])),
            against_means=effect(MEANS, resampling.interval(apart)),
            push=push,
            factors={kind: self.factors[kind] for kind in (MEANS, *KINDS)},
            doses=doses,
        )

    def _dose(
        self, method: str, strength: float, run: Outcomes, before: Outcomes, resampling: Resampling
    ) -> Dose:
        interval = resampling.interval_of_random if method == RANDOM else resampling.interval
        flips, success = run.flips(before), run.success
        gained = interval(success.astype(float) - before.success)
        still = float(before.success.mean())
        factor = np.mean([self.factors[k] for k in KINDS]) if method == RANDOM else self.factors[method]
        return Dose(
            method=method,
            strength=strength,
            size=0.0 if self.settings.ablate else float(abs(strength) * factor * self.direction.spread),
            accuracy=float(success.mean()),
            accuracy_interval=(still + gained[0], still + gained[1]),
            flips=float(flips.mean()),
            flips_interval=interval(flips),
            right_to_wrong=float((before.success & ~success).mean()),
            wrong_to_right=float((~before.success & success).mean()),
            kl=float(run.kl.mean()),
        )

    def move(self, kind: str, number: int, strength: float) -> Intervention:
        """A move along one of the directions of a kind."""
        unit = self.units[kind][number % len(self.units[kind])].astype(np.float32)
        size = strength * self.factors[kind]
        if self.settings.ablate:
            return Intervention(self.direction.layer, unit, remove=size, at=self.settings.at)
        return Intervention(
            self.direction.layer, unit, shift=size * self.direction.spread, at=self.settings.at
        )

    def _blocks(self, split: str, count: int) -> Blocks:
        still = self.move(self.direction.name, 0, 0.0)
        return Blocks(self.replay, self.rerun, self.examples[split], count, still, self.advance)

    def advance(self, count: int) -> None:
        """Say that so many examples were run."""
        self.done += count
        if self.progress:
            self.progress(self.replay.store.task, min(self.done, self.todo), self.todo)
