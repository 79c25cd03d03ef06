"""A Hub that fails at one request of a push, a pull or a read, once or from there on."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from huggingface_hub import HfFileSystem
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from huggingface_hub.utils.logging import CRITICAL, set_verbosity

from tests.faults.builds import contents, numbers
from tests.faults.report import Row
from tests.hub.publishing import REPO, dataset, push
from tests.hub.publishing import contents as published
from tests.support.hub import Hub
from tests.support.stores import make_store
from wif_store.errors import WifError
from wif_store.hub.pull import Pull

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.faults.campaign import Campaign

FAULTS: Final[dict[str, dict[str, Any]]] = {
    "500": {"status": 500},
    "502": {"status": 502},
    "429, Retry-After": {"status": 429, "retry_after": 3},
    "reset": {"reset_after": 0},
    "reset in the body": {"match": "/cdn/", "reset_after": 700},
    "body cut": {"match": "GET /cdn/", "truncate": 700},
    "body cut short of its length": {"match": "GET /cdn/", "close_after": 700},
    "wrong byte": {"match": "GET /cdn/", "corrupt": True},
    "wrong ETag": {"match": "/resolve/", "etag": '"' + "0" * 64 + '"'},
    "answer lost": {"lose_response": True},
    "slow": {"delay": 0.05, "bytes_per_second": 200_000},
}
WAITS_OUT: Final = {"500", "502", "429, Retry-After", "reset", "slow"}
"""Those that must not end a call, if they pass."""
LONGEST: Final = 400.0
"""Seconds that a call may wait, all its waits together, before it says that the Hub fails."""


class Clock:
    """The ``time`` of those who wait for the Hub: it notes their waits, and makes them short."""

    def __init__(self) -> None:
        self._waits: Counter[int] = Counter()

    @property
    def waited(self) -> float:
        """Seconds that the most patient thread has waited since ``forget``."""
        return max(self._waits.values(), default=0.0)

    def forget(self) -> None:
        """Count afresh."""
        self._waits.clear()

    def sleep(self, seconds: float) -> None:
        """Wait a hundredth."""
        self._waits[threading.get_ident()] += seconds  # type: ignore[assignment]
        time.sleep(seconds / 100)

    def module(self) -> SimpleNamespace:
        """What stands for the module."""
        return SimpleNamespace(**{**vars(time), "sleep": self.sleep})


@contextmanager
def loopback(folder: Path, clock: Clock) -> Iterator[Hub]:
    """A Hub, and clients of this process that know it alone and wait by ``clock``."""
    with ExitStack() as stack:
        for where in ("huggingface_hub.utils._http", "tenacity.nap"):
            stack.enter_context(patch(f"{where}.time", clock.module()))
        stack.enter_context(patch("huggingface_hub.constants.HF_HUB_DISABLE_XET", True))
        hub = stack.enter_context(Hub(folder))
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        stack.enter_context(patch("huggingface_hub.constants.ENDPOINT", hub.endpoint))
        stack.enter_context(patch("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template))
        disable_progress_bars()
        stack.callback(enable_progress_bars)
        set_verbosity(CRITICAL)
        yield hub
        if hub.broken:
            raise hub.broken[0]


def hub(campaign: Campaign) -> Iterator[Row]:
    """Each fault at random requests of a push, a pull and a read, in turn passing and lasting."""
    folder, each = campaign.at("hub"), campaign.count(1, 4)
    names = ["500", "reset", "wrong byte"] if campaign.short else list(FAULTS)
    old, new = make_store(folder / "w.zarr", "winogrande"), make_store(folder / "b.zarr", "boolq")
    clock, chosen = Clock(), [name for name in names for _ in range(each)]
    with loopback(folder / "hub", clock) as served:
        inject = partial(_inject, served, clock, chosen, campaign.rng)
        _publish(served, old)
        before = published(served)
        push(served, new)
        states = (before, published(served))

        def pushed() -> bool:
            return published(served) == states[1] and set(served.repo(REPO).state.branches) == {"main"}

        pushing = _Use(
            partial(push, served, new),
            pushed,
            lambda: published(served) in states,
            partial(_publish, served, old),
        )
        yield inject(Row("Hub: a fault in mid-push", len(chosen)), pushing)
        _publish(served, old, new)
        out, files, values = folder / "pulled.zarr", contents(new), numbers(new)
        pulling = _Use(
            lambda: Pull.open(dataset(served)).pull("boolq", out),
            lambda: contents(out) == files,
            lambda: not out.exists() or contents(out) == files,
            partial(_forget, out),
        )
        yield inject(Row("Hub: a fault in mid-pull", len(chosen)), pulling)
        read: list[str] = []
        reading = _Use(
            lambda: read.append(numbers(f"hf://datasets/{REPO}/zarr/boolq.zarr")),
            lambda: read == [values],
            lambda: read in ([], [values]),
            lambda: (read.clear(), HfFileSystem.clear_instance_cache()),
        )
        yield inject(Row("Hub: a fault in mid-read", len(chosen)), reading)


@dataclass(frozen=True)
class _Use:
    """Something that is done with a Hub: the call, and what may be seen of it."""

    call: Callable[[], object]
    done: Callable[[], bool]
    """Whether everything is as it must be after a call that returned."""
    whole: Callable[[], bool]
    """Whether what is to be seen is of one piece, as it must be at any time."""
    begin: Callable[[], object]
    """Make everything as it was before the first call."""


def _inject(hub: Hub, clock: Clock, chosen: Sequence[str], rng: random.Random, row: Row, use: _Use) -> Row:
    use.begin()
    hub.log.clear()
    use.call()
    lines = hub.log.select()
    for number, name in enumerate(chosen):
        how: dict[str, Any] = {"match": None, **FAULTS[name]}
        met = sum(entry.matches(how["match"]) for entry in lines)
        if not met:
            continue  # a push fetches no content
        lasts = bool(number % 2)
        skip = rng.randrange(met)
        use.begin()
        clock.forget()
        fault = hub.fail(**how, skip=skip, times=None if lasts else 1)
        said = _outcome(use)
        waited = clock.waited
        problems = {
            "it was not met": not fault.hits,
            "half of it is seen": not use.whole(),
            f"many lines, or no error of ours: {said}": said is not None and not said.startswith("`"),
            f"it might have been waited out: {said}": said is not None and not lasts and name in WAITS_OUT,
            f"waited {waited:.0f} s": waited > LONGEST,
            "not as it must be": said is None and not use.done(),
        }
        hub.heal()
        again = None if said is None else _outcome(use)
        problems[f"the same call again: {again}"] = again is not None
        problems["not finished by the same call"] = not use.done()
        if any(problems.values()):
            found = "; ".join(problem for problem, holds in problems.items() if holds)
            row.bad(f"{name}{' for good' if lasts else ''}, after {skip} of {met} requests: {found}")
            continue
        row.notes["waited out, or without effect" if said is None else "one line, then finished"] += 1
        row.notes["longest wait, s"] = max(row.notes["longest wait, s"], round(waited))
        row.good(said or "")
    return row


def _outcome(use: _Use) -> str | None:
    """What a call says that fails, as a message where it is one line of ours; None where it does not."""
    try:
        use.call()
    except WifError as error:
        return f"`{error}`" if "\n" not in str(error) else str(error)
    except Exception as error:
        return f"{type(error).__module__}.{type(error).__name__}: {str(error)[:200]}"
    return None


def _publish(hub: Hub, *stores: Path) -> None:
    """Have these stores and nothing else be published."""
    if f"datasets/{REPO}" in hub.repos:
        hub.delete_repo(f"datasets/{REPO}")
    push(hub, *stores)


def _forget(out: Path) -> None:
    """Remove what a pull has left."""
    for path in out.parent.glob(f"{out.name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
