"""Pushes killed at random instants: main is the old dataset or the new one, and the next push finishes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.publish.loopback import UPLOAD_WARNING
from tests.publish.publishing import REPO, ROOT, contents, push, wif

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.hub import Hub

pytestmark = [pytest.mark.hub, UPLOAD_WARNING]


def files(hub: Hub) -> list[dict[str, str]]:
    """What every commit of main holds, oldest first."""
    found = [{p: f.sha256 for p, f in c.files.items()} for c in hub.repo(REPO).history("main")]
    return found[::-1]


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_pushes_are_finished_and_never_half_seen(
    hub: Hub, made: Callable[[str], Path], kills: int
) -> None:
    random_ = random.Random(kills)
    push(hub, made("winogrande"))
    old = contents(hub)
    # Slow enough that a kill meets every phase.
    hub.fail("PUT /cdn/", delay=0.02, times=None)
    hub.fail("POST .*/(commit|branch)/", delay=0.15, times=None)
    started = time.monotonic()
    assert wif(hub, "push", made("boolq")).returncode == 0
    whole = time.monotonic() - started
    new = contents(hub)
    met = set()
    for _ in range(kills):
        hub.delete_repo(f"datasets/{REPO}")
        push(hub, made("winogrande"))
        assert contents(hub) == old
        hub.log.clear()
        command = [sys.executable, "-m", "wif_store.cli", "push", str(made("boolq"))]
        with subprocess.Popen(
            command, env=hub.environ(PYTHONPATH=str(ROOT)), stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(whole * random_.uniform(0.3, 1.0))
            process.kill()
        met.add(max((e.path.split("/")[-2] for e in hub.log.select("PUT /cdn/|POST")), default="before"))
        assert contents(hub) in (old, new)
        run = wif(hub, "push", made("boolq"))
        assert run.returncode == 0, run.stderr
        assert contents(hub) == new
        assert set(hub.repo(REPO).state.branches) == {"main"}
        assert all(seen in (old, new) for seen in files(hub)[1:])
        assert len(files(hub)) == 3, "one commit for each task"
    if kills >= 20:
        assert len(met) >= 3, met
