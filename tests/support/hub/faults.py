"""What the server was asked and what it sent, and the failures it is told to show."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

Match = str | re.Pattern[str] | Callable[["Entry"], bool]


@dataclass
class Entry:
    """One request. ``path`` is decoded and has no query, so it holds no ticket; tokens are never kept.

    ``host`` is "hub" for the API and "cdn" for the store that large files come from and go to.
    ``sent`` and ``received`` count bytes of bodies, as they pass: a cut response counts what went out.
    ``status`` is 0 until an answer was begun, and stays 0 where the connection was reset before one.
    """

    host: str
    method: str
    path: str
    range: str | None = None
    user: str | None = None
    repo: str | None = None
    status: int = 0
    sent: int = 0
    received: int = 0

    @property
    def line(self) -> str:
        """``GET /datasets/owner/name/resolve/main/README.md``: what a string to match is searched in."""
        return f"{self.method} {self.path}"

    def matches(self, match: Match | None) -> bool:
        """Whether a regular expression is found in ``line``, or a predicate holds."""
        if match is None:
            return True
        return bool(match(self) if callable(match) else re.search(match, self.line))


class RequestLog:
    """Every request since the start or the last ``clear``, in the order they came."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Note a request that has just begun."""
        self._entries.append(entry)

    def clear(self) -> None:
        """Start counting afresh."""
        self._entries = []

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries))

    def select(self, match: Match | None = None) -> list[Entry]:
        """The requests that match."""
        return [entry for entry in self if entry.matches(match)]

    def count(self, match: Match | None = None) -> int:
        """How many requests match."""
        return len(self.select(match))

    def sent(self, match: Match | None = None) -> int:
        """Bytes of response bodies the clients were sent."""
        return sum(entry.sent for entry in self.select(match))

    def received(self, match: Match | None = None) -> int:
        """Bytes of request bodies the clients sent."""
        return sum(entry.received for entry in self.select(match))


@dataclass
class Fault:
    """One way to fail, shown to the requests that match.

    The body faults (``reset_after`` and below) act on the bytes of an upload or of a response. Large files
    travel by way of ``/cdn/``, so match on that: on ``/resolve/`` they would meet the redirect.
    """

    match: Match | None
    times: int | None = 1  # how many requests are failed; None: all
    skip: int = 0  # how many matching requests pass first
    status: int | None = None  # answer this instead
    message: str = "Told to fail"  # ... in these words
    retry_after: int | None = None  # ... with this many seconds in Retry-After
    headers: Mapping[str, str] = field(default_factory=dict)  # extra or replaced headers of the answer
    delay: float = 0.0  # seconds before the answer
    bytes_per_second: float | None = None  # a slow line, either way
    etag: str | None = None  # answer with this ETag (and X-Linked-Etag)
    reset_after: int | None = None  # connection reset once this many bytes of body have passed
    close_after: int | None = None  # connection closed in good order, short of the announced length
    truncate: int | None = None  # a body cut to this length, announced so
    corrupt: bool = False  # one byte of the response body is another
    lose_response: bool = False  # the request is carried out, the answer never sent
    hits: int = 0

    def cancel(self) -> None:
        """Fail no more."""
        self.times = self.hits


class Faults:
    """The failures in force, oldest first; a request meets the first that is due."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        """Put a failure in force."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Be well again."""
        with self._lock:
            self._faults = []

    def take(self, entry: Entry) -> Fault:
        """The failure this request is to meet, or one that does nothing."""
        with self._lock:
            for fault in self._faults:
                if (fault.times is not None and fault.hits >= fault.times) or not entry.matches(fault.match):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.hits += 1
                return fault
        return Fault(None)
