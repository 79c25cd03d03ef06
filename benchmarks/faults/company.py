"""Two builds at once, a read during a build, and numbers that are none."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from benchmarks.faults.builds import Job, contents, numbers, wait
from benchmarks.faults.report import Row
from wif_store.errors import BuildError, ResidualError, StoreError

if TYPE_CHECKING:
    import random
    from pathlib import Path

PAUSE = 0.03


def slowed(job: Job) -> Job:
    """The same build, with a pause before each block."""
    return job.before_each_block(lambda requests: time.sleep(PAUSE))


def two_builds(job: Job, folder: Path, count: int, rng: random.Random) -> Row:
    """While one build runs, the same is begun again on its folder."""
    row = Row("a second build on the folder of a first")
    whole: dict[str, str] = {}
    for number in range(count):
        out = folder / f"two{number}.zarr"
        child = slowed(job).start(out, folder / f"two{number}.log")
        while not (folder / f"{out.name}.partial" / "plan.json").exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 5 * PAUSE))
        said = ""
        try:
            row.notes["begun when the first was done"] += job.run(out).already_built
        except BuildError as error:
            row.notes["refused"] += 1
            said = f"`{error}`"
        status = wait(child)
        whole = whole or contents(out)
        if status or contents(out) != whole:
            row.bad(f"{out.name}: status {status}")
        else:
            row.good(said)
    return row


def reads_during_a_build(job: Job, folder: Path, builds: int) -> Row:
    """A reader opens and reads the folder again and again while a build writes it."""
    row = Row("a read during a build")
    whole = ""
    for number in range(builds):
        out = folder / f"read{number}.zarr"
        child = slowed(job).start(out, folder / f"read{number}.log")
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            try:
                seen = numbers(out)
            except StoreError as error:
                row.notes["refused"] += 1
                row.good(f"`{error}`")
            else:
                whole = whole or seen
                row.notes["read whole"] += 1
                row.good() if seen == whole else row.bad("a reader saw another store")
        if whole and numbers(out) != whole:
            row.bad(f"{out.name}: a reader saw another store")
        whole = whole or numbers(out)
    return row


def no_numbers(job: Job, count: int, rng: random.Random) -> Row:
    """NaN or infinity in one value of one block's output, for one example at a time."""
    import torch

    row = Row("NaN or infinity in a residual")
    blocks = job.engine.extract.model.blocks  # type: ignore[attr-defined]
    for _ in range(count):
        candidate, layer = rng.choice(job.source.candidates), rng.randrange(len(blocks))
        value = rng.choice([float("nan"), float("inf"), -float("inf")])

        def plant(module: Any, inputs: Any, output: Any, value: float = value) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[:, -1, rng.randrange(hidden.shape[-1])] = torch.tensor(value, dtype=hidden.dtype)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        hook = blocks[layer].register_forward_hook(plant)
        try:
            job.engine.extract([job.settings.task.request(candidate, job.settings.protocol)])
            row.bad(f"block {layer}, {value}: stored")
        except ResidualError as error:
            named = candidate.id in str(error) and f"block {layer} " in str(error)
            row.good(f"`{error}`") if named else row.bad(str(error))
        finally:
            hook.remove()
    return row
