"""What a scoring run found, as frozen records.

``results.json`` has ``schema``, ``schema_version`` and the fields of :class:`Results`. Each record in it is
an object with the fields that its class describes here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from wif_store.scorer.calibration import Calibration
    from wif_store.scorer.stats import Auroc, Floats
    from wif_store.scorer.steered import Steering

SCHEMA: Final = "wif-store-results"
SCHEMA_VERSION: Final = 1
CHANCE: Final = "chance"
COLUMNS: Final = ("task", "id", "split", "success")
"""The columns of ``scores.parquet`` that are no method's."""
CONFIDENCE: Final = "confidence"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired DeLong test of a curve's point against something else on the same test examples.

    ``difference`` is the AUROC of the point less the other, from ``low`` to ``high``.
    ``p_holm`` is corrected over the family the record stands in: all layers and tasks for a
    :class:`Point`, the chosen points of all tasks and probes for a :class:`Curve`.
    """

    against: str
    difference: float
    low: float
    high: float
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

    ``layer`` is 0-based, and ``None`` where no single layer was read. ``validation_auroc`` is what
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
    every split. ``bootstrap`` is an interval of the chosen point, ``calibration`` what its scores are worth
    beyond their ranking.
    """

    probe: str
    reads: str | None
    points: tuple[Point, ...]
    chosen: int
    comparisons: tuple[Comparison, ...] = ()
    shuffled: Auroc | None = None
    bootstrap: tuple[float, float] | None = None
    calibration: Calibration | None = None

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

    ``settings`` were chosen on train and validation: the measure that ``confidence`` is, the direction of
    ``prompt-length``, ``C`` of ``tf-idf``.
    """

    name: str
    test: Auroc
    settings: Mapping[str, Any] | None = None
    calibration: Calibration | None = None

    @property
    def title(self) -> str:
        """The name; of confidence with the measure that it is."""
        of = (self.settings or {}).get("of")
        return f"{self.name} ({of})" if of else self.name


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Everything measured on one store.

    ``store`` pins it: the SHA-256 of its manifest, ``d_model``, and the manifest's ``model``, ``protocol``,
    ``source`` and ``selection``. ``examples`` counts the rows of each split. ``measures`` are all measures of
    the model's confidence, of which ``confidence`` among the baselines is the best on validation.
    """

    task: str
    store: Mapping[str, Any]
    examples: Mapping[str, int]
    baselines: tuple[Baseline, ...]
    curves: tuple[Curve, ...]
    measures: tuple[Baseline, ...] = ()

    @property
    def model(self) -> str:
        """What the store calls the model."""
        model = self.store["model"]
        return str(model.get("id") or model.get("name") or "unnamed model")

    def baseline(self, name: str) -> Baseline:
        """Return one of the baselines."""
        return next(baseline for baseline in self.baselines if baseline.name == name)


@dataclass(frozen=True, slots=True)
class Between:
    """A paired DeLong test between two curves of a task, each at its chosen layer.

    ``difference`` is the AUROC of ``first`` less that of ``second``, from ``low`` to ``high``. Holm's
    correction runs over all tasks and pairs.
    """

    task: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float


@dataclass(frozen=True, slots=True)
class CrossTaskCell:
    """A probe trained on one task and tested on another, at the training task's chosen layer."""

    train_task: str
    test_task: str
    layer: int | None
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
class TaskScores:
    """What every method says of every example of the validation and the test split of a task.

    ``scores`` holds float64 ``[n]`` by method, higher where success is likelier, NaN where it says nothing: a
    probe at its chosen layer, the baselines, and predictions, which are of the test split alone.
    """

    task: str
    ids: tuple[str, ...]
    splits: tuple[str, ...]
    success: tuple[int, ...]
    scores: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a linear probe at one layer of one task: arrays by name."""

    task: str
    probe: str
    reads: str
    layer: int
    arrays: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class Shown:
    """A test example that a method gets very wrong or very right, to be read by a person."""

    task: str
    method: str
    wrong: bool
    id: str
    success: int
    score: float
    prompt: str
    answer: str
    expected: str


NOT_IN_JSON: Final = ("scores", "weights", "shown")


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that a run found.

    ``confidence`` is that of the intervals. ``settings`` (probes, predictions, layers, seeds, bootstrap),
    ``versions`` of the packages and each task's ``store`` are what is needed to repeat the run. ``scores``,
    ``weights`` and ``shown`` are not in ``results.json``: they have files of their own.
    """

    confidence: float
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    tasks: tuple[TaskResult, ...]
    between: tuple[Between, ...] = ()
    cross_task: tuple[CrossTask, ...] = ()
    steering: tuple[Steering, ...] = ()
    scores: tuple[TaskScores, ...] = ()
    weights: tuple[Weights, ...] = ()
    shown: tuple[Shown, ...] = ()

    def task(self, name: str) -> TaskResult:
        """Return one task's results."""
        return next(task for task in self.tasks if task.task == name)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``results.json``."""
        content = asdict(replace(self, scores=(), weights=(), shown=()))
        for name in NOT_IN_JSON:
            del content[name]
        return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **content}

    def scores_table(self) -> pa.Table:
        """Return the content of ``scores.parquet``: one row an example, one column a method.

        The columns are ``task``, ``id``, ``split``, ``success`` (int8), and a float64 column for each method.
        """
        import pyarrow as pa

        parts = []
        for one in self.scores:
            columns = {
                "task": pa.array([one.task] * len(one.ids)),
                "id": pa.array(one.ids),
                "split": pa.array(one.splits),
                "success": pa.array(one.success, pa.int8()),
            }
            scores = {name: pa.array(found, from_pandas=True) for name, found in one.scores.items()}
            parts.append(pa.table(columns | scores))
        return pa.concat_tables(parts, promote_options="default") if parts else pa.table({})

    def to_pandas(self) -> Any:
        """Return the chosen points and the baselines as a pandas DataFrame: one row a task and method.

        Example::

            wif_store.score(store).to_pandas().query("auroc > 0.6")
        """
        import pyarrow as pa

        rows: list[dict[str, Any]] = []
        for task in self.tasks:
            rows += [
                _as_row(task, curve.probe, curve.best.layer, curve.best.test, curve.calibration)
                for curve in task.curves
            ]
            rows += [_as_row(task, one.name, None, one.test, one.calibration) for one in task.baselines]
        return pa.Table.from_pylist(rows).to_pandas()


def _as_row(
    task: TaskResult, method: str, layer: int | None, test: Auroc, worth: Calibration | None
) -> dict[str, Any]:
    return {
        "task": task.task,
        "method": method,
        "layer": layer,
        "auroc": test.value,
        "low": test.low,
        "high": test.high,
        "p_chance": test.p_chance,
        **{name: getattr(worth, name, None) for name in ("brier", "ece", "aurc")},
    }
