"""Options that take one of a few words, and what a shell completes of options that take more than these."""

from __future__ import annotations

from typing import Literal

Dtype = Literal["bfloat16", "float32", "float16"]
Splits = Literal["seeded", "published"]
Engine = Literal["local", "ray"]
Pool = Literal["final", "mean", "max"]
At = Literal["all", "final"]
Compare = Literal["paper"]


def _of(words: list[str], incomplete: str) -> list[str]:
    """The words that begin as what is typed so far."""
    return [word for word in words if word.startswith(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """Registered tasks, or all; the option takes the harness's and files too."""
    from wif_store.tasks import names

    return _of([*names(), "all"], incomplete)


def protocols(incomplete: str) -> list[str]:
    """Protocols of our tasks; another package's may have others."""
    return _of(["aligned", "mcq", "cot", "paper"], incomplete)


def models(incomplete: str) -> list[str]:
    """The embedded model and the default; the option takes any of the Hub, and folders."""
    return _of(["gemma3-270m", "google/gemma-2-2b"], incomplete)


def sources(incomplete: str) -> list[str]:
    """What is not a file or a dataset on the Hub."""
    return _of(["builtin"], incomplete)


def probes(incomplete: str) -> list[str]:
    """Our probes; the option takes a factory of anyone's too."""
    from wif_store.scorer.probes import PROBES

    return _of([*PROBES], incomplete)
