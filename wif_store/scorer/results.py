"""What a scoring run found, as frozen records.

``results.json`` has ``schema``, ``schema_version`` and the fields of :class:`Results`. Each record in it is
an object with the fields that its class describes here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wif_store.scorer.stats import Auroc

SCHEMA: Final = "wif-store-results"
SCHEMA_VERSION: Final = 1
CHANCE: Final = "chance"
CONFIDENCE: Final = "confidence"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired DeLong test of a curve's point against something else on the same test examples.

    ``p_holm`` is corrected over the family the record stands in: all layers and tasks for a
    :class:`Point`, the chosen points of all tasks and probes for a :class:`Curve`.
    """

    against: str
    difference: float
    p: float
    p_holm: float

    def verdict(self, confidence: float) -> str:
        """Say in words what the test says at level ``1 - confidence``."""
        if self.p_holm >= 1.0 - confidence:
            return "does not beat"
        return "beats" if self.difference > 0 else "is worse than"


@dataclass(frozen=True, slots=True)
class Point:
    """A probe at one layer of one task.

    ``layer`` is 0-based, and ``None`` for predictions, which come from no layer. ``validation_auroc`` is what
    layers are chosen by. ``seed_aurocs`` are test AUROCs with train and validation divided anew by groups and
    the estimator seeded anew; the first is that of ``test``. ``settings`` were chosen on validation.
    ``notes`` are the warnings of the fit.
    """

    layer: int | None
    test: Auroc
    validation_auroc: float | None = None
    seed_aurocs: tuple[float, ...] = ()
    settings: Mapping[str, Any] | None = None
    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """A probe over the layers of a task, or predictions as a single point.

    ``reads`` is what the probe reads; ``None`` for predictions. ``chosen`` indexes ``points``: the layer with
    the best validation AUROC. ``shuffled`` is the same probe at that layer with the labels shuffled within
    every split. ``bootstrap`` is an interval of the chosen point.
    """

    probe: str
    reads: str | None
    points: tuple[Point, ...]
    chosen: int
    comparisons: tuple[Comparison, ...] = ()
    shuffled: Auroc | None = None
    bootstrap: tuple[float, float] | None = None

    @property
    def best(self) -> Point:
        """The point chosen on validation."""
        return self.points[self.chosen]

    def against(self, name: str) -> Comparison:
        """Return the chosen point's comparison with ``name``."""
        return next(comparison for comparison in self.comparisons if comparison.against == name)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A score that needs no residuals.

    ``settings`` were chosen on train and validation: the direction of ``prompt-length``, ``C`` of ``tf-idf``.
    """

    name: str
    test: Auroc
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Everything measured on one store.

    ``store`` pins it: the SHA-256 of its manifest, ``d_model``, and the manifest's ``model``, ``protocol``,
    ``source`` and ``selection``. ``examples`` counts the rows of each split.
    """

    task: str
    store: Mapping[str, Any]
    examples: Mapping[str, int]
    baselines: tuple[Baseline, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """A paired DeLong test between two curves of a task, each at its chosen layer.

    ``difference`` is the AUROC of ``first`` less that of ``second``. Holm's correction runs over all tasks
    and pairs.
    """

    task: str
    first: str
    second: str
    difference: float
    p: float
    p_holm: float


@dataclass(frozen=True, slots=True)
class CrossTaskCell:
    """A probe trained on one task and tested on another, at the training task's chosen layer."""

    train_task: str
    test_task: str
    layer: int
    test: Auroc
    p_holm: float


@dataclass(frozen=True, slots=True)
class CrossTask:
    """One probe trained on each task and tested on each, row by row.

    ``p_holm`` of a cell tests against 0.5, corrected over all cells.
    """

    probe: str
    tasks: tuple[str, ...]
    cells: tuple[CrossTaskCell, ...]

    def cell(self, train_task: str, test_task: str) -> CrossTaskCell:
        """Return one cell."""
        return next(c for c in self.cells if (c.train_task, c.test_task) == (train_task, test_task))


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that a run found.

    ``confidence`` is that of the intervals. ``settings`` (probes, predictions, layers, seeds, bootstrap),
    ``versions`` of the packages and each task's ``store`` are what is needed to repeat the run.
    """

    confidence: float
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    tasks: tuple[TaskResult, ...]
    between: tuple[Between, ...] = ()
    cross_task: tuple[CrossTask, ...] = ()

    def task(self, name: str) -> TaskResult:
        """Return one task's results."""
        return next(task for task in self.tasks if task.task == name)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``results.json``."""
        return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **asdict(self)}
