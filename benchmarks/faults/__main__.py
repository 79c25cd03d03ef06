"""Inject every fault, count what came of each, and print the table of ``docs/reliability.md``.

    python -m benchmarks.faults [--short] [--seed N]

Needs the embedded model and the built-in source (``wif-store[embedded]``); with ``--short`` neither, and
less of everything. The exit status is 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.faults import boundaries, builds, company, disk, fuzz, hub, kills, objects, rot
from benchmarks.faults.report import HEAD, Row

if TYPE_CHECKING:
    from collections.abc import Iterator


def campaign(folder: Path, seed: int, *, short: bool) -> Iterator[Row]:
    """Every fault in turn, as rows of the table."""
    rng = random.Random(seed)

    def place(name: str) -> Path:
        (folder / name).mkdir()
        return folder / name

    made_up = builds.made_up_job(place("rows"))
    if short:
        store = place("short") / "whole.zarr"
        made_up.run(store)
    else:
        real = builds.real_job(place("real"))
        yield from kills.random_instants(real, folder / "real", (50, 10), rng)
        yield company.no_numbers(real, 40, rng)
        store = folder / "real" / "whole.zarr"
    yield boundaries.write_boundaries(made_up, place("boundaries"), 100 if short else 1)
    yield from objects.object_boundaries(made_up, place("objects"), (100, 150) if short else (1, 2))
    yield from rot.byte_flips(store, 60 if short else 300, rng)
    yield disk.full(made_up, place("full"), 4 if short else 20)
    yield disk.over_quota(made_up, place("quota"), 2 if short else 20)
    yield disk.read_only(made_up, place("closed"))
    yield company.two_builds(made_up, place("two"), 2 if short else 20, rng)
    yield company.reads_during_a_build(made_up, place("read"), 1 if short else 10)
    small = builds.made_up_job(place("small"), 20)
    small.run(folder / "small" / "s.zarr")
    counts = (120, 60, 120, 120) if short else (7_000, 5_000, 6_000, 6_000)
    yield fuzz.manifests(folder / "small" / "s.zarr", counts[0], seed)
    yield fuzz.metadata(folder / "small" / "s.zarr", counts[1], seed)
    yield fuzz.sources(place("sources"), counts[2], seed)
    yield fuzz.predictions(place("predictions"), counts[3], seed)
    # The last, for its server has threads, and a process that has some is not to be forked.
    faults = ["500", "reset", "wrong byte"] if short else list(hub.FAULTS)
    yield from hub.hub_faults(place("hub"), faults, 1 if short else 8, rng)


def main() -> None:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a little of everything, without a model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # Whatever ends it says so, and takes the builds along.
    faulthandler.enable()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the campaign was told to end"))
    warnings.filterwarnings("ignore", message="Consolidated metadata")
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
    started, lost = time.monotonic(), 0
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # for the builds that give up root
        for row in campaign(Path(folder).resolve(), args.seed, short=args.short):
            print(row, flush=True)
            lost += row.lost
            for failure in row.failures[:5]:
                print(f"  lost: {failure}", file=sys.stderr, flush=True)
    print(f"\nSeed {args.seed}; {time.monotonic() - started:.0f} s.")
    sys.exit(lost > 0)


if __name__ == "__main__":
    main()
