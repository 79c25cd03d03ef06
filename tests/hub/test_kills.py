"""Pushes killed at random instants: main is the old dataset or the new one, and the next push finishes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.hub.loopback import UPLOAD_WARNING
from tests.hub.publishing import REPO, ROOT, contents, push
from wif_store.hub.staging import view_path

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
    random = Random(kills)
    push(hub, made("winogrande"))
    old = contents(hub)
    # Slow enough that a kill can meet a commit on its way.
    hub.fail("POST .*/commit/", delay=0.05, times=None)
    hub.log.clear()
    push(hub, made("boolq"))
    requests, new = hub.log.count(), contents(hub)
    command = [sys.executable, "-m", "wif_store.cli.app", "push", str(made("boolq"))]
    env = hub.environ(PYTHONPATH=str(ROOT))
    met = []
    for kill in range(kills):
        hub.delete_repo(f"datasets/{REPO}")
        push(hub, made("winogrande"))
        if kill % 2:
            shutil.rmtree(view_path(made("boolq")))
        hub.log.clear()
        after = random.randrange(requests)
        with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and hub.log.count() < after:
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.05))
            process.kill()
        met.append(next((entry.line for entry in hub.log.select()[::-1]), "nothing"))
        assert contents(hub) in (old, new), met
        push(hub, made("boolq"))
        assert contents(hub) == new
        assert set(hub.repo(REPO).state.branches) == {"main"}
        # Every commit of main is what a reader has seen at some time.
        assert files(hub)[1:] == [old, new], met
    if kills >= 20:
        assert len({line.split("/")[1] for line in met} | {line.split()[0] for line in met}) > 3, met
