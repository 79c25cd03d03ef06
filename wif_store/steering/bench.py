"""One store on the bench: its strength and its controls are set on validation, then test is measured once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from wif_store.errors import SteerError
from wif_store.extract.intervention import At, Intervention
from wif_store.extract.rerun import Rerun
from wif_store.scorer.sites import at_site
from wif_store.scorer.steered import MEANS, RANDOM, Dose, Effect, Steering, verdict_of
from wif_store.steering.directions import difference_of_means, random_directions
from wif_store.steering.examples import Examples
from wif_store.steering.outcomes import Outcomes, Resampling

if TYPE_CHECKING:
    from wif_store.extract.replay import Replay
    from wif_store.format.schema import Example
    from wif_store.progress import Told
    from wif_store.scorer.stats import Floats
    from wif_store.steering.directions import Direction

KINDS: Final = ("covariance", "isotropic")
"""What random directions are drawn like."""
EACH: Final = 10
"""Random directions of each kind."""
MOST_KL: Final = 1.0
"""Nats by which the distribution of the next token may move: beyond, the model is another one."""
AIM_KL: Final = 0.5
"""Nats that the larger of two moves is to give, where no strengths are asked for."""
SMALLER: Final = 3.0
"""By which the other one is smaller."""
SHARE: Final = 5
"""One validation example for so many test examples."""
TRIES: Final = 3
"""How often the factor of a kind of control is measured."""
AIMS: Final = 6
"""How often the strength of the direction is measured, where none is asked for: it may be far from 1."""

FARTHEST: Final = 30.0
"""By which a factor grows or shrinks at most from one measurement to the next."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a caller decides.

    Attributes:
        strengths: Which moves are tried; shares of the direction where it is projected out. None for two that
            are found on validation.
        at: The tokens that are moved.
        ablate: Whether the direction is projected out.
        examples: Test examples, at most.
        confidence: Of the intervals.
        seed: Of the random directions.
    """

    strengths: tuple[float, ...] | None
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
        self, replay: Replay, direction: Direction, settings: Settings, site: str, progress: Told
    ) -> None:
        self.replay, self.direction, self.settings, self.progress = replay, direction, settings, progress
        view, layer = at_site(replay.store, site), direction.layer
        rng = np.random.default_rng(settings.seed)
        drawn = [random_directions(view, layer, EACH, rng, kind) for kind in KINDS]
        self.units: dict[str, Floats] = {
            direction.name: direction.unit,
            MEANS: difference_of_means(view, layer),
            **dict(zip(KINDS, drawn, strict=True)),
        }
        self.factors = dict.fromkeys(self.units, 1.0)
        self.notes: list[str] = []
        self.rerun = Rerun(replay.extractor, layer)
        moves = 2 if settings.strengths is None else len(settings.strengths)
        doses, controls = moves * len(settings.signs), 2 * len(settings.signs) + moves - 1
        self.validation = self._examples("validation", max(2, settings.examples // SHARE // 2 * 2))
        self.test = self._examples("test", settings.examples)
        self.todo = [
            len(self.validation) * (1 + doses + TRIES * (1 + len(KINDS)) + AIMS * (not settings.strengths)),
            len(self.test) * (1 + doses + controls),
        ]
        self.done = 0

    def _examples(self, split: str, count: int) -> list[Example]:
        return self.replay.store.examples(split)[:count]

    def measure(self) -> Steering:
        """Choose on validation, measure on test."""
        strengths, chosen = self._choose()
        self.done = self.todo[0]
        return self._measure(strengths, chosen)

    def _choose(self) -> tuple[tuple[float, ...], float]:
        """Find the strength that flips most answers and leaves the model itself; set the factors.

        Returns:
            Every strength that is to be measured, and the one that is chosen.
        """
        name, settings = self.direction.name, self.settings
        examples = self._runs(self.validation)
        before = examples.run(None)
        strengths = settings.strengths or self._aimed(examples)
        tried: dict[float, tuple[float, float]] = {}
        for strength in strengths:
            runs = [examples.run(self._move(name, sign * strength)) for sign in settings.signs]
            kl = float(np.mean([run.kl for run in runs]))
            flips = float(np.mean(np.any([run.flips(before) for run in runs], axis=0)))
            tried[strength] = kl, flips
        fit = [strength for strength, (kl, _) in tried.items() if kl <= MOST_KL]
        if not fit:
            self.notes.append(f"every strength moves the distribution by more than {MOST_KL:g} nat")
        chosen = max(fit or strengths[:1], key=lambda strength: tried[strength][1])
        # What is projected out is projected out whole, of controls as of the direction.
        for kind in () if settings.ablate else (MEANS, *KINDS):
            self.factors[kind] = self._factor(examples, kind, chosen, tried[chosen][0], TRIES)
        return strengths, chosen

    def _aimed(self, examples: Examples) -> tuple[float, float]:
        """Two strengths, of which the larger one moves the distribution of the next token as far as is aimed.

        One standard deviation may be nearly nothing: final tokens that say the same differ little.
        """
        name = self.direction.name
        found = self._factor(examples, name, 1.0, AIM_KL, AIMS)
        self.factors[name] = 1.0
        return float(f"{found / SMALLER:.2g}"), float(f"{found:.2g}")

    def _factor(self, examples: Examples, kind: str, strength: float, target: float, tries: int) -> float:
        """What moves along a kind of control are multiplied by to give a KL.

        For small moves the KL goes with the square of the move.
        """
        factor, last, count = 1.0, 1.0, len(self.validation)
        units = self.units[kind]
        units = units if units.ndim == 1 else units[_numbers(count, EACH)]
        for _ in range(tries if target else 0):
            try:
                kl = float(examples.run(self._along(units, strength * factor * _turns(count))).kl.mean())
            except SteerError:
                return last  # what is larger breaks the model
            if abs(kl - target) <= 0.1 * target:
                break
            last = factor
            factor *= float(np.clip(math.sqrt(target / kl) if kl else FARTHEST, 1 / FARTHEST, FARTHEST))
        return factor if target else 0.0

    def _measure(self, strengths: tuple[float, ...], chosen: float) -> Steering:
        name, settings, count = self.direction.name, self.settings, len(self.test)
        signed = [sign * strength for strength in strengths for sign in settings.signs]
        ways = [sign * chosen for sign in settings.signs]
        moves: dict[Any, Intervention | None] = {None: None}
        moves |= {(name, strength): self._move(name, strength) for strength in signed}
        moves |= {(MEANS, way): self._move(MEANS, way) for way in ways}
        moves |= {(RANDOM, way): self._random(way) for way in ways}
        others = [strength for strength in strengths if strength != chosen]
        moves |= {(RANDOM, strength): self._random(strength * _turns(count)) for strength in others}
        examples = self._runs(self.test)
        runs = examples.run_all(moves)
        # A random direction has no side, so one run stands for both.
        runs |= {(RANDOM, sign * s): runs[RANDOM, s] for s in others for sign in settings.signs}
        before = runs.pop(None)
        numbers = _numbers(count, EACH * len(KINDS))
        resampling = Resampling(count, numbers, settings.confidence)
        methods = (name, MEANS, RANDOM)
        doses = [
            self._dose(method, strength, runs[method, strength], before, resampling)
            for method, strength in sorted(runs, key=lambda key: (methods.index(key[0]), key[1]))
        ]
        flips = {m: np.any([runs[m, way].flips(before) for way in ways], axis=0) for m in methods}
        kl = {m: float(np.mean([runs[m, way].kl for way in ways])) for m in methods}

        def effect(control: str, ends: tuple[float, float]) -> Effect:
            shares = float(flips[name].mean()), float(flips[control].mean())
            difference = shares[0] - shares[1]
            return Effect(*shares, difference, *ends, kl[name], kl[control], verdict_of(*ends, count))

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
            differs=examples.differs,
            apart=examples.apart,
            against_random=effect(RANDOM, resampling.interval_of_difference(flips[name], flips[RANDOM])),
            against_means=effect(MEANS, resampling.interval(apart)),
            push=push,
            factors={kind: self.factors[kind] for kind in (MEANS, *KINDS)},
            doses=tuple(doses),
            notes=tuple(self.notes),
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

    def _move(self, kind: str, strength: float) -> Intervention:
        """All examples along one direction."""
        return self._along(self.units[kind], strength * self.factors[kind])

    def _random(self, strength: Any) -> Intervention:
        """Each pair of test examples along a random direction of its own, of the one kind or the other."""
        numbers = _numbers(len(self.test), EACH * len(KINDS))
        units = np.concatenate([self.units[kind] for kind in KINDS])
        factors = np.repeat([self.factors[kind] for kind in KINDS], EACH)
        return self._along(units[numbers], strength * factors[numbers])

    def _along(self, units: Floats, strength: Any) -> Intervention:
        """A move by so many standard deviations of the direction, or so large a share taken out."""
        layer, direction, at = self.direction.layer, units.astype(np.float32), self.settings.at
        if self.settings.ablate:
            return Intervention(layer, direction, remove=np.abs(strength), at=at)
        return Intervention(layer, direction, shift=strength * self.direction.spread, at=at)

    def _runs(self, examples: list[Example]) -> Examples:
        still = self._along(self.direction.unit, 0.0)
        return Examples(self.replay, self.rerun, examples, still, self._advance)

    def _advance(self, count: int) -> None:
        """Say that so many examples were run."""
        self.done += count
        self.progress(self.replay.store.task, self.done, sum(self.todo))


def _numbers(count: int, several: int) -> npt.NDArray[np.int64]:
    """Which of several directions each example is given, int64 ``[n]``.

    Neighbours share one: of two neighbours in a store one is a success and the other a failure. Few
    examples are given directions that are spread over all there are.
    """
    pairs = (count + 1) // 2
    pair: npt.NDArray[np.int64] = np.arange(count) // 2
    return pair % several if pairs >= several else pair * several // pairs


def _turns(count: int) -> Floats:
    """A sign for each of so many examples, float64 ``[n]``: every other pair is moved the other way."""
    return np.where(_numbers(count, 2), -1.0, 1.0)
