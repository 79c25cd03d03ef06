"""The same build on Ray: the same bytes, whoever did what in which order, and whoever was killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tests.support import tiny
from tests.support.builds import PROTOCOL, contents, objects, settings, source_of
from tests.support.command import run
from tests.support.fake_engine import fake_engine
from tests.support.ray_engine import Odd, absent, unlike
from tests.support.responses import questions, responding, settings_of
from tests.support.s3 import s3_server, worker_processes
from wif_store import open_store
from wif_store.builder import workers_ray
from wif_store.builder.pipeline import build_store
from wif_store.builder.workers_ray import RayWorkers, Worker, ray_workers
from wif_store.errors import BuildError, ModelError

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def s3():
    with s3_server() as url:
        yield url


@pytest.fixture(scope="module")
def cluster(s3):
    """One Ray for all tests, three workers wide; each test starts its own workers."""
    import ray

    workers_ray._connect(None, 3)
    yield
    ray.shutdown()


def fake(protocol):
    return fake_engine()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return source_of(tmp_path_factory.mktemp("rows"), 90)


@pytest.fixture(scope="module")
def local(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "s.zarr"
    build_store(settings(), source, fake_engine(), out)
    return out


def on_ray(open_engine, source, out, workers, **changes):
    with ray_workers(open_engine, workers=workers) as actors:
        ours = RayWorkers(actors, PROTOCOL)
        return build_store(settings(**changes), source, ours.engine, out, workers=ours)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Many blocks: their schedule is the driver's. Workers write shards of the usual size."""
    monkeypatch.setattr("wif_store.builder.scan.LEAST_BLOCK", 4)
    monkeypatch.setattr("wif_store.builder.scan.MOST_BLOCK", 8)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_ends_in_the_same_bytes(workers, cluster, source, local, tmp_path):
    engine = Odd(str(tmp_path), first_slow=0.3)
    report = on_ray(engine, source, tmp_path / "s.zarr", workers)
    assert contents(tmp_path / "s.zarr") == contents(local)
    assert not (tmp_path / "s.zarr.partial").exists()
    assert engine.begun() == report.blocks > 10


def writing(protocol):
    return responding()


def test_answers_that_are_written_on_ray_are_judged_there(cluster, tmp_path):
    configured, source = settings_of(questions(tmp_path))
    build_store(configured, source, responding(), tmp_path / "local.zarr")
    with ray_workers(writing, workers=2) as actors:
        ours = RayWorkers(actors, configured.protocol)
        build_store(configured, source, ours.engine, tmp_path / "s.zarr", workers=ours)
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "local.zarr")


def test_what_is_begun_beyond_a_full_class_leaves_nothing(cluster, source, tmp_path):
    build_store(settings(per_class=6), source, fake_engine(), tmp_path / "local.zarr")
    on_ray(Odd(str(tmp_path), slow=0.1), source, tmp_path / "s.zarr", 3, per_class=6)
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "local.zarr")
    time.sleep(0.3)
    assert not (tmp_path / "s.zarr.partial").exists()


def test_a_worker_killed_in_mid_block_is_replaced(cluster, source, local, tmp_path):
    engine = Odd(str(tmp_path), kill_at=(1, 5, 9))
    report = on_ray(engine, source, tmp_path / "s.zarr", 2)
    assert engine.begun() >= report.blocks + 3
    assert contents(tmp_path / "s.zarr") == contents(local)


def test_workers_killed_from_outside_change_nothing(cluster, source, local, tmp_path, monkeypatch):
    """One while blocks are extracted, one while a shard is written."""
    killed, scans, writes = [], RayWorkers.scan, RayWorkers.write

    def scan(self, jobs, journal):
        for number, done in enumerate(scans(self, jobs, journal)):
            if number == 1:
                killed.append(worker_processes()[0])
                killed[-1].kill()
            yield done

    def write(self, job, journal):
        written = writes(self, job, journal)
        if len(killed) == 1:
            killed.append(worker_processes()[0])
            killed[-1].kill()
        return written

    monkeypatch.setattr(RayWorkers, "scan", scan)
    monkeypatch.setattr(RayWorkers, "write", write)
    on_ray(Odd(str(tmp_path), slow=0.1), source, tmp_path / "s.zarr", 2)
    assert len({process.pid for process in killed}) == 2
    assert contents(tmp_path / "s.zarr") == contents(local)


def test_work_that_kills_every_worker_ends_the_build(cluster, source, tmp_path, monkeypatch):
    monkeypatch.setattr(workers_ray, "RETRIES", 1)
    with pytest.raises(BuildError, match="a worker died 2 times over the same work"):
        on_ray(Odd(str(tmp_path), always=True), source, tmp_path / "s.zarr", 1)


DRIVER = """
import sys
from tests.support.builds import PROTOCOL, TASK, settings
from tests.support.ray_engine import Odd
from wif_store.builder import scan
from wif_store.builder.pipeline import build_store
from wif_store.builder.workers_ray import RayWorkers, ray_workers
from wif_store.tasks.rows import load_source
scan.LEAST_BLOCK, scan.MOST_BLOCK = 4, 8
rows, out, notes, address = sys.argv[1:]
with ray_workers(Odd(notes, slow=0.2), workers=2, address=address or None) as actors:
    ours = RayWorkers(actors, PROTOCOL)
    print(build_store(settings(), load_source(TASK, rows), ours.engine, out, workers=ours).resumed_blocks)
"""


@pytest.mark.slow
def test_a_killed_driver_takes_its_ray_along_and_is_resumed(local, tmp_path):
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(90))
    out, blocks = tmp_path / "s.zarr", tmp_path / "s.zarr.partial" / "blocks"
    command = [sys.executable, "-c", DRIVER, str(rows), str(out), str(tmp_path), ""]
    given = {
        "cwd": ROOT,
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
        "stdout": subprocess.PIPE,
        "text": True,
    }
    with subprocess.Popen(command, **given) as driver:
        deadline = time.monotonic() + 60
        while len(list(blocks.glob("*.npz"))) < 3:
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        family = psutil.Process(driver.pid).children(recursive=True)
        workers = [process for process in family if process.name() == "ray::Worker"]
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert len(workers) == 2
        assert psutil.wait_procs(workers, timeout=30)[1] == []
        # Ray's own agents, which do no work, look only once a minute whether anybody is left.
        for process in family:
            if process.is_running():
                process.kill()
    assert not out.exists()
    again = subprocess.run(command, **given, check=True)
    assert int(again.stdout.splitlines()[-1]) >= 3
    assert contents(out) == contents(local)


@pytest.mark.slow
def test_a_cluster_that_runs_already(cluster, local, tmp_path):
    import ray

    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(90))
    address = ray.get_runtime_context().gcs_address
    # Workers of a cluster have a working folder of their own: a relative path is made absolute.
    subprocess.run(
        [sys.executable, "-c", DRIVER, str(rows), "s.zarr", str(tmp_path), address],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert contents(tmp_path / "s.zarr") == contents(local)
    assert ray.is_initialized()


def test_a_tiny_model_by_the_command_line(cluster, tiny_models, rows_file, tmp_path, monkeypatch):
    given = ("--task", "winogrande", "--model", tiny_models("gemma2"), "--source", rows_file)
    given += ("--per-class", "max", "--sequence-layers", "1,3")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a worker has one core
    try:
        done = run("build", *given, "--out", tmp_path / "local.zarr")
    finally:
        torch.set_num_threads(threads)
    assert done.returncode == 0, done.stderr
    done = run("build", *given, "--out", tmp_path / "ray.zarr", "--engine", "ray", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "successes and as many failures" in done.stderr
    assert contents(tmp_path / "ray.zarr") == contents(tmp_path / "local.zarr")
    assert open_store(tmp_path / "ray.zarr").manifest.model["threads"] == 1


@pytest.mark.slow
def test_straight_to_s3(cluster, s3, source, local):
    build_store(settings(), source, fake_engine(), f"{s3}/one.zarr")
    on_ray(fake, source, f"{s3}/two.zarr", 2)
    for name in ("one", "two"):
        assert objects(f"{s3}/{name}.zarr") == contents(local)
    there, here = open_store(f"{s3}/two.zarr"), open_store(local)
    np.testing.assert_array_equal(there.read_final_token(1)[0], here.read_final_token(1)[0])
    np.testing.assert_array_equal(there.read_sequences(1)[0], here.read_sequences(1)[0])


def test_a_build_to_s3_is_resumed(cluster, s3, source, local, tmp_path):
    writes = RayWorkers.write

    def stops(self, job, journal):
        written = writes(self, job, journal)
        if "validation" in job.path:
            raise KeyboardInterrupt
        return written

    out = f"{s3}/stopped.zarr"
    engine = Odd(str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RayWorkers, "write", stops)
        with pytest.raises(KeyboardInterrupt):
            on_ray(engine, source, out, 2)
    report = on_ray(engine, source, out, 2)
    assert report.resumed_blocks > 5
    assert objects(out) == contents(local)


def test_a_model_that_no_worker_can_load(cluster):
    with ray_workers(absent, workers=2) as actors, pytest.raises(ModelError, match=r"^model made/up cannot"):
        RayWorkers(actors, PROTOCOL)


def test_workers_that_would_not_compute_the_same(cluster):
    with (
        ray_workers(unlike, workers=2) as actors,
        pytest.raises(ModelError, match=r"would not compute the same: device is 'machine \d+'"),
    ):
        RayWorkers(actors, PROTOCOL)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 1, "gpus": 1}, r"found room for 0 workers with 1 GPUs each; expected 1"),
        ({"gpus": 2}, r"found room for 0 workers with 2 GPUs each; expected 1"),
        ({"workers": 900}, r"found room for \d+ workers with a CPU core each; expected 900"),
    ],
)
def test_a_cluster_without_room(given, message, cluster):
    with pytest.raises(BuildError, match=message), ray_workers(fake, **given):
        pass


def test_cores_go_with_gpus():
    nodes = [{"CPU": 64.0, "GPU": 8.0}, {"CPU": 12.0, "GPU": 4.0}, {"CPU": 4.0}]
    assert [workers_ray._cores(nodes, gpus) for gpus in (0, 0.25, 1, 2)] == [1, 1, 3, 6]


def test_a_folder_that_is_not_shared(tmp_path):
    with pytest.raises(BuildError, match="--out must be a folder or URL that all machines share"):
        Worker(fake).write(None, str(tmp_path / "s.zarr"))


def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.parametrize("closed", [False, True])
def test_a_cluster_that_does_not_answer(closed):
    """In a process of its own: this one may have a Ray already."""
    address = f"127.0.0.1:{closed_port()}" if closed else "nonsense"
    code = (
        "import sys; from wif_store.builder.workers_ray import ray_workers\n"
        "from wif_store.errors import BuildError\n"
        "try:\n    ray_workers(None, address=sys.argv[1]).__enter__()\n"
        "except BuildError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, address],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith(f"no Ray cluster can be used at {address} (")
    assert done.stdout.count("\n") == 1


def test_ray_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BuildError, match=r"pip install 'wif-store\[ray\]'"), ray_workers(fake):
        pass


def test_workers_are_for_ray():
    done = run("build", "--task", "winogrande", "--workers", "2")
    assert done.returncode == 1
    assert "are for --engine ray" in done.stderr
