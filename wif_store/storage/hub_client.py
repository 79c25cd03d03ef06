"""Requests to the Hub: which failures may pass, how a request is repeated, and failures in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import tenacity

from wif_store.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

WAITS: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between the tries of a request whose failure may pass."""
BACKOFF: Final = tenacity.wait_chain(*map(tenacity.wait_fixed, WAITS))
LONGEST_WAIT: Final = 60.0
"""Seconds; the Hub may ask for a longer wait, and gets it up to this."""
PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
"""The statuses after which the same request may succeed a little later."""


def retrying(
    request: Callable[[], T],
    *,
    reached: bool = False,
    passing: Callable[[BaseException], bool] | None = None,
) -> T:
    """Make a request, and make it again where its failure may pass.

    The Hub's client does this by itself for the content of files, but not for the small requests that
    list, describe, create and commit.

    Args:
        request: Makes the request; what it raises in the end is raised unchanged.
        reached: Whether the Hub has answered the caller before. If not, a failure to connect means that
            this machine is offline, and is raised at once.
        passing: Which failures may pass; ``is_passing`` where it is None.

    Example:
        >>> retrying(lambda: 7)
        7
    """
    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception(
            lambda e: (passing or is_passing)(e) and (reached or not is_offline(e))
        ),
        stop=tenacity.stop_after_attempt(len(WAITS) + 1),
        wait=_wait,
        reraise=True,
    )
    return tries(request)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    response = getattr(unwrapped(error), "response", None) if error else None
    asked = "" if response is None else response.headers.get("Retry-After", "")
    least = min(float(asked), LONGEST_WAIT) if asked.isdecimal() else 0.0
    return max(float(BACKOFF(state)), least)


def unwrapped(error: BaseException) -> BaseException:
    """What a request failed with. The client raises a failed upload as the cause of a RuntimeError."""
    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, Exception) else error


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that the Hub answered with; None where the error is no answer of the Hub."""
    from huggingface_hub.errors import HfHubHTTPError

    found = None if error is None else unwrapped(error)
    if isinstance(found, HfHubHTTPError) and found.response is not None:
        return int(found.response.status_code)
    return None


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    status = status_of(error)
    return is_transport(error) if status is None else status in PASSING


def is_transport(error: BaseException) -> bool:
    """Whether a request, or its answer, was lost on the way."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    found = unwrapped(error)
    if isinstance(found, HfHubHTTPError | OfflineModeIsEnabled):
        return False
    return isinstance(found, ConnectionError | TimeoutError | LocalEntryNotFoundError) or _is_a(
        found, "TransportError"
    )


def is_offline(error: BaseException) -> bool:
    """Whether no connection to the Hub could be made, or none is wanted (``HF_HUB_OFFLINE``)."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    found = unwrapped(error)
    return isinstance(
        found, ConnectionRefusedError | LocalEntryNotFoundError | OfflineModeIsEnabled
    ) or _is_a(found, "ConnectError", "ConnectTimeout")


def is_hubs(error: BaseException) -> bool:
    """Whether the Hub refused or was not reached; such an error says nothing of what the Hub holds."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    return isinstance(unwrapped(error), HfHubHTTPError | OfflineModeIsEnabled) or is_transport(error)


def _is_a(error: BaseException, *names: str) -> bool:
    # By name: which HTTP library the client uses changes with its release.
    return any(kind.__name__ in names for kind in type(error).__mro__)


def dataset_of(url: str) -> str:
    """What a URL of the Hub is a part of, as errors call it.

    Example:
        >>> dataset_of("hf://datasets/me/acts@main/s.zarr")
        'dataset me/acts'
    """
    owner, _, rest = url.removeprefix("hf://datasets/").partition("/")
    return f"dataset {owner}/{rest.partition('/')[0].partition('@')[0]}"


def explained(error: BaseException, what: str) -> str:
    """One line that says why a request for ``what`` failed, and what to do. It never shows a token.

    Args:
        error: What the client raised; its causes are looked at too.
        what: ``model OWNER/NAME`` or ``dataset OWNER/NAME``.
    """
    from huggingface_hub import errors

    page = f"https://huggingface.co/{'datasets/' if what.startswith('dataset') else ''}{what.split()[-1]}"
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        if isinstance(link, errors.GatedRepoError):
            return f"{what} is gated: accept its terms at {page}, then run `hf auth login`"
        if isinstance(link, errors.RepositoryNotFoundError):
            return f"{what} was not found: check the name, or run `hf auth login` if it is private"
        if isinstance(link, errors.RevisionNotFoundError):
            return f"{what} has no such revision: see its branches and tags at {page}"
        if isinstance(link, errors.OfflineModeIsEnabled):
            return f"{what} is not cached and HF_HUB_OFFLINE is set: unset it, or name a local folder"
        if (status := status_of(link)) is not None:
            if status == 401:
                return f"{what}: the Hub does not accept the token: run `hf auth login`"
            if status == 429:
                return f"{what}: the Hub's rate limit is reached: wait a few minutes and run the same command"
            return f"{what}: the Hub answered {status}: run the same command again later"
    for link in chain:
        name = type(link).__name__
        if "Connect" in name or "Timeout" in name or isinstance(link, ConnectionError | TimeoutError):
            return f"{what} cannot be fetched: no connection to the Hub; use a local source or model instead"
    return f"{what} cannot be loaded: {one_line(error)}"
