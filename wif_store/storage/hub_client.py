"""What the Hub's client raised, as one line that says what to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

from wif_store.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

WAITS: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds between tries of a small request that may succeed a little later."""
LONGEST_WAIT: Final = 60.0
PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})


def patiently(request: Callable[[], T]) -> T:
    """Make a request, and again where its failure may pass: the client does so for content alone."""
    for wait in WAITS:
        try:
            return request()
        except Exception as error:
            response = getattr(error, "response", None)
            # Who is offline need not wait.
            passing = _is_a("TransportError", error) and not _is_a("ConnectError", error)
            if not passing and getattr(response, "status_code", None) not in PASSING:
                raise
            asked = "" if response is None else response.headers.get("Retry-After", "")
            time.sleep(max(wait, min(float(asked), LONGEST_WAIT) if asked.isdecimal() else 0.0))
    return request()


def is_hubs(error: BaseException) -> bool:
    """Whether it says that the Hub was not to be reached or refused, and nothing of what it holds."""
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, HfHubHTTPError | ConnectionError | TimeoutError) or _is_a(
        "TransportError", error
    )


def _is_a(name: str, error: BaseException) -> bool:
    # By name, for the library the client speaks HTTP with is its own affair.
    return any(kind.__name__ == name for kind in type(error).__mro__)


def dataset_of(url: str) -> str:
    """What ``hf://datasets/me/acts/s.zarr`` is a part of: ``dataset me/acts``."""
    return "dataset " + "/".join(url.removeprefix("hf://datasets/").split("/")[:2])


def explained(error: BaseException, what: str) -> str:
    """A message for a failed request for ``what`` (as in "model google/gemma-2-2b"); no token in it."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{'datasets/' if what.startswith('dataset') else ''}{what.split()[-1]}"
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    for link in chain:
        if isinstance(link, errors.GatedRepoError):
            return f"{what} is gated: accept its terms at {page}, then run `hf auth login`"
        if isinstance(link, errors.RepositoryNotFoundError):
            return f"{what} was not found: check the name, or run `hf auth login` if it is private"
        if isinstance(link, errors.RevisionNotFoundError):
            return f"{what} has no such revision: see its branches and tags at {page}"
        if isinstance(link, errors.OfflineModeIsEnabled):
            return f"{what} is not cached and HF_HUB_OFFLINE is set: unset it, or name a local folder"
        if isinstance(link, errors.HfHubHTTPError) and link.response is not None:
            status = link.response.status_code
            if status == 401:
                return f"{what}: the Hub does not accept the token: run `hf auth login`"
            if status == 429:
                return f"{what}: the Hub's rate limit is reached: wait a few minutes and run the same command"
            return f"{what}: the Hub answered {status}: run the same command again later"
    for link in chain:
        name = type(link).__name__
        if "Connect" in name or "Timeout" in name or isinstance(link, ConnectionError | TimeoutError):
            return f"{what} cannot be fetched: no connection to the Hub; use a local source or model instead"
    return f"{what} cannot be loaded: {one_line(chain[0])}"
