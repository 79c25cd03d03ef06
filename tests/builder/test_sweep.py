"""Several stores by one command: what is planned, what is estimated, what is shared, what fails alone."""

from __future__ import annotations

import json

import pytest

from tests.support import tiny
from tests.support.builds import contents
from tests.support.command import run
from wif_store import open_store
from wif_store.builder.pipeline import Settings
from wif_store.builder.sweep import Templates, estimate, plan_jobs
from wif_store.errors import TaskError
from wif_store.extract import engine as engines
from wif_store.extract.dry_run import preview
from wif_store.tasks import TASKS, get_task

pytestmark = pytest.mark.usefixtures("one_thread")
TASK = get_task("winogrande")


def settings(task=TASK, protocol="aligned", **changes):
    return Settings(task, task.protocol(protocol), **{"per_class": None, **changes})


def sweep(models, source, out, *more):
    named = [part for model in models for part in ("--model", model)]
    return run("build", "--task", "winogrande", *named, "--source", source, "--out", out, *more)


@pytest.fixture
def sources(tmp_path):
    """Rows of every task, in `rows/{task}.jsonl`."""
    from tests.support.stores import ROWS

    (tmp_path / "rows").mkdir()
    for task, row in ROWS.items():
        tiny.write_rows(tmp_path / "rows" / f"{task}.jsonl", [row(i) for i in range(44)])
    return tmp_path / "rows" / "{task}.jsonl"


def test_every_model_over_every_task_with_each_model_loaded_once(tiny_models, sources, tmp_path, monkeypatch):
    loads = []
    load = engines.load
    monkeypatch.setattr(engines, "load", lambda *a, **k: (loads.append(a[0].name), load(*a, **k))[1])
    done = run(
        *("build", "--task", "all", "--source", sources, "--per-class", "max", "--protocol", "mcq"),
        *("--model", tiny_models("llama"), "--model", tiny_models("gemma2")),
        *("--out", tmp_path / "{model}" / "{task}.zarr"),
    )
    assert loads == ["llama", "gemma2"]
    built = {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("*/*.zarr")}
    failed = done.stderr.count(" failed: the source ran out")
    assert len(built) + failed == 8
    assert len(built) >= 4, done.stderr
    for name in built:
        store = open_store(tmp_path / name)
        assert f"{store.manifest.model['id']}/{store.task}.zarr" == name
        recorded = json.loads(json.dumps(TASKS[store.task].protocol("mcq").record()))
        found = {name: store.manifest.protocol[name] for name in recorded}
        assert found == recorded, "the shared model ran under the protocol of another task"
    assert done.returncode == bool(failed)


def test_what_is_shared_changes_no_byte(tiny_models, sources, tmp_path):
    given = ("--source", sources, "--model", tiny_models("llama"), "--per-class", "max", "--dtype", "float32")
    run("build", "--task", "all", *given, "--out", tmp_path / "swept" / "{task}.zarr")
    built = sorted(p.stem for p in (tmp_path / "swept").glob("*.zarr"))
    assert len(built) > 1
    last = built[-1]
    run("build", "--task", last, *given, "--out", tmp_path / "alone.zarr")
    assert contents(tmp_path / "alone.zarr") == contents(tmp_path / "swept" / f"{last}.zarr")


def test_one_failure_leaves_the_others_alone(tiny_models, rows_file, tmp_path):
    """A class that cannot be filled by one model is no reason not to run the next."""
    done = sweep(
        [tiny_models("gpt2"), tiny_models("llama")],
        rows_file,
        tmp_path / "{model}.zarr",
        *("--per-class", "900"),
    )
    assert done.returncode == 1
    for name in ("gpt2", "llama"):
        assert f"{name} / winogrande failed: the source ran out" in done.stderr
    last = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert last == [
        "error: 2 of 2 builds failed: gpt2 / winogrande, llama / winogrande; "
        "the same command tries them again"
    ]


def test_output_that_cannot_be_written_ends_the_sweep(tiny_models, rows_file, tmp_path):
    (tmp_path / "file").touch()
    done = sweep(
        [tiny_models("gpt2"), tiny_models("llama")],
        rows_file,
        tmp_path / "file" / "{model}.zarr",
        *("--per-class", "max"),
    )
    assert done.returncode == 1
    assert done.stderr.count("cannot write") == 1


@pytest.mark.parametrize(
    "protocol",
    ["aligned", pytest.param("mcq", marks=pytest.mark.slow), pytest.param("paper", marks=pytest.mark.slow)],
)
def test_an_estimate_is_what_a_build_then_takes(protocol, tiny_models, rows_file, tmp_path):
    model = str(tiny_models("gemma2"))
    (job,) = plan_jobs([model], [settings(protocol=protocol)], Templates(str(rows_file), str(tmp_path / "s")))
    found = estimate(job, preview(model, sequence_layers="1,3"), dtype="bfloat16", chat=False)
    engine = engines.open_engine(model, job.settings.protocol, sequence_layers="1,3")
    records = engine.extract([TASK.request(c, job.settings.protocol) for c in job.source.candidates])
    run_tokens = sum(r.cost for r in records)
    raw = sum(r.final_token.nbytes + r.sequence.nbytes for r in records)
    assert found.candidates == found.kept == len(records)
    assert found.tokens_least == found.tokens_most == pytest.approx(run_tokens)
    # Where the preferred sequence is read, the mean of the choices stands for it.
    assert found.raw == pytest.approx(raw, rel=0.02 if protocol == "aligned" else 1e-9)


def test_an_estimate_with_k_says_least_and_most(tiny_models, rows_file, tmp_path):
    model = str(tiny_models("gemma2"))
    (job,) = plan_jobs([model], [settings(per_class=5)], Templates(str(rows_file), None))
    found = estimate(job, preview(model), dtype="float32", chat=False)
    assert found.kept == 10
    assert found.tokens_least == pytest.approx(10 * found.tokens_each)
    assert found.tokens_most == pytest.approx(found.candidates * found.tokens_each)
    half = estimate(job, preview(model), dtype="bfloat16", chat=False)
    assert found.raw == 2 * half.raw


def test_a_dry_run_prints_the_table_and_loads_nothing(tiny_models, rows_file, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "load", None)
    models = [tiny_models("gemma2"), tiny_models("llama")]
    done = sweep(models, rows_file, tmp_path / "{model}.zarr", "--per-class", "5", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stderr.splitlines() if "winogrande" in line or "stores" in line]
    assert [line[0] for line in lines] == ["gemma2", "llama", "2"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("models", "source", "out", "message"),
    [
        (["a/x", "b/x"], None, None, "2 builds would write stores/x/aligned/winogrande.zarr"),
        (["a/x", "b/y"], None, "here.zarr", "is the same for 2 models; write {model}"),
    ],
)
def test_two_jobs_never_write_one_store(models, source, out, message):
    with pytest.raises(TaskError, match=message):
        plan_jobs(models, [settings()], Templates(source, out))


def test_two_tasks_never_write_one_store():
    both = [settings(), settings(get_task("piqa"))]
    for source, out in (("rows.jsonl", None), (None, "{model}.zarr")):
        with pytest.raises(TaskError, match=r"is the same for 2 tasks; write \{task\}"):
            plan_jobs(["m"], both, Templates(source, out))
