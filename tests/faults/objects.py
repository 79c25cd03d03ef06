"""Builds to S3 and on Ray: killed at a request, refused a request, workers and drivers killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Timer
from typing import TYPE_CHECKING, Any

from tests.faults import builds
from tests.faults.builds import PROTOCOL, Job, contents, made_up_job, wait
from tests.faults.report import Row
from tests.faults.resume import Undisturbed
from tests.support import s3 as support
from tests.support.ray_engine import Odd
from wif_store.builder.pipeline import build_store
from wif_store.builder.workers_ray import RayWorkers, ray_workers
from wif_store.errors import WifError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.faults.campaign import Campaign

WRITES = {
    "put_object",
    "create_multipart_upload",
    "upload_part",
    "complete_multipart_upload",
    "delete_objects",
    "delete_object",
}
PAUSE = 0.1
"""Seconds of each block on Ray, so that a kill meets a build that is under way."""


def s3(campaign: Campaign) -> Iterator[Row]:
    """Builds to an S3 server, killed before a request that writes, or refused any request; then finished."""
    folder = campaign.at("s3")
    job, counted = made_up_job(folder, 28), folder / "count"
    with server() as url:
        undisturbed = Undisturbed.build(
            job, f"{url}/first.zarr", folder / "first.log", lambda note: _requests(_count(counted))
        )
        here = folder / "here.zarr"
        job.run(here)
        requests = counted.read_text().split()
        at_write = [at for at, verb in enumerate(requests) if verb in WRITES]
        killed = Row("S3: SIGKILL before a request that writes", campaign.count(2, 16))
        if undisturbed.files != contents(here):
            killed.bad("a store on S3 has other bytes than one in a folder")
        for number in range(killed.wanted):
            at = at_write[number * len(at_write) // killed.wanted]
            out, log = f"{url}/k{number}.zarr", folder / f"k{number}.log"
            kill = lambda verb: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            status = wait(job.start(out, log, lambda note, at=at, kill=kill: _requests(_at(at, kill))))
            if status == -signal.SIGKILL:
                undisturbed.finish(killed, out, log)
            else:
                killed.bad(f"{out} was to be killed and ended with {status}")
        yield killed
        refused = Row("S3: a request refused", campaign.count(2, 16))
        for number in range(refused.wanted):
            at = number * len(requests) // refused.wanted
            out, log = f"{url}/r{number}.zarr", folder / f"r{number}.log"
            status = wait(job.start(out, log, lambda note, at=at: _requests(_at(at, _refuse))))
            said = log.with_suffix(".error").read_text()
            refused.notes[requests[at]] += 1
            if status == 0 or (status == 1 and "\n" not in said and "Slow Down" in said):
                undisturbed.finish(refused, out, log, f"`{said}`" if said else "", shards_repeated=10**6)
            else:
                refused.bad(f"{out}: {requests[at]} refused, ended with {status}: {said[-300:]}")
        yield refused


@contextmanager
def server() -> Iterator[str]:
    """An S3 server in a process of its own; yields its URL, to which the environment points."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_serve, args=(sender,), daemon=True)
    process.start()
    environment, url = receiver.recv()
    os.environ.update(environment)
    try:
        yield url
    finally:
        process.terminate()
        process.join()


def _serve(sender: Any) -> None:
    builds.end_with_parent()
    with support.s3_server() as url:
        sender.send(({n: v for n, v in os.environ.items() if n.startswith("AWS_")}, url))
        signal.pause()


def _requests(meet: Callable[[str], object]) -> None:
    """Have ``meet`` be told of each request to S3 before this process makes it."""
    from s3fs import S3FileSystem

    # A file that is written calls the second, which had the first bound when it was made.
    call, call_from_file = S3FileSystem._call_s3, S3FileSystem.call_s3

    async def telling(self: Any, method: str, *rest: Any, **more: Any) -> Any:
        meet(method)
        return await call(self, method, *rest, **more)

    def telling_file(self: Any, method: str, *rest: Any, **more: Any) -> Any:
        meet(method)
        return call_from_file(self, method, *rest, **more)

    S3FileSystem._call_s3, S3FileSystem.call_s3 = telling, telling_file


def _count(counted: Path) -> Callable[[str], None]:
    def meet(verb: str) -> None:
        with counted.open("a") as file:
            file.write(f"{verb}\n")

    return meet


def _at(number: int, what: Callable[[str], object]) -> Callable[[str], object]:
    """Has something happen at one request, counted from 0."""
    numbers = iter(range(10**9))
    return lambda verb: what(verb) if next(numbers) == number else None


def _refuse(verb: str) -> None:
    msg = f"503 Slow Down:\n{verb}"
    raise RuntimeError(msg)


def ray(campaign: Campaign) -> Iterator[Row]:
    """Builds on one and on two workers: undisturbed, a worker killed, the driver killed."""
    folder = campaign.at("ray")
    # Ray says there what became of its workers.
    sys.stdout = Path(os.devnull).open("w")
    job = made_up_job(folder, 64)
    job.run(folder / "here.zarr")
    expected = contents(folder / "here.zarr")
    opener = Odd(str(folder), slow=PAUSE)
    for workers in (1, 2):
        row = Row(f"Ray, {workers} workers: SIGKILL to a worker", campaign.count(1, 6))
        with ray_workers(opener, workers=workers) as actors:
            started = time.monotonic()
            first = Row("")
            _one_build(first, job, actors, folder / f"same{workers}.zarr", expected)
            row.failures, row.lost = first.failures, first.lost
            lasts = time.monotonic() - started
            number = 0
            while row.trials < row.wanted and number < 4 * row.wanted:
                out, killed = folder / f"{workers}-{number}.zarr", Event()
                killer = Timer(lasts * campaign.rng.random(), _kill_one, (campaign.rng, killed))
                killer.start()
                trial = Row("")
                _one_build(trial, job, actors, out, expected)
                killer.cancel()
                killer.join()
                number += 1
                if killed.is_set() or trial.lost:
                    row.good() if not trial.lost else row.bad(trial.failures[0])
                else:
                    row.notes["came too late, tried again"] += 1
        yield row
    yield _killed_drivers(folder, expected, campaign)


def _one_build(row: Row, job: Job, actors: Any, out: Path, expected: dict[str, str]) -> None:
    workers = RayWorkers(actors, PROTOCOL)
    try:
        build_store(job.settings, job.source, workers.engine, out, workers=workers)
    except WifError as error:
        row.bad(f"{out.name}: {error}")
        return
    row.good() if contents(out) == expected else row.bad(f"{out.name}: other bytes")


def _kill_one(rng: random.Random, killed: Event) -> None:
    found = support.worker_processes()
    if found:
        rng.choice(found).kill()
        killed.set()


def _killed_drivers(folder: Path, expected: dict[str, str], campaign: Campaign) -> Row:
    """One kill a build, then the same call again."""
    row = Row("Ray, 2 workers: SIGKILL to the driver", campaign.count(1, 4))
    lasts = 2.0
    for number in range(4 * row.wanted):
        if row.trials == row.wanted:
            break
        out = folder / f"driver{number}.zarr"
        journal = folder / f"{out.name}.partial"
        driver = _drive(folder, out)
        while not (journal / "plan.json").exists() and driver.poll() is None:
            time.sleep(0.01)
        time.sleep(campaign.rng.uniform(0, lasts))
        unfinished = not out.exists()
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
        if not unfinished:
            row.notes["came too late, tried again"] += 1
            continue
        row.notes["blocks taken up"] += len(list((journal / "blocks").glob("*.npz")))
        error = (again := _drive(folder, out)).communicate()[1]
        same = not again.returncode and contents(out) == expected
        row.good() if same else row.bad(f"{out.name}: {error[-300:] or 'other bytes'}")
    return row


def _drive(folder: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.objects", str(folder), str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def drive(folder: Path, out: Path) -> None:
    """Build on two workers of one's own."""
    builds.use_small_shards()
    job = made_up_job(folder, 64)
    with ray_workers(Odd(str(folder), slow=PAUSE), workers=2) as actors:
        workers = RayWorkers(actors, PROTOCOL)
        build_store(job.settings, job.source, workers.engine, out, workers=workers)


if __name__ == "__main__":
    drive(*map(Path, sys.argv[1:]))
