"""HTTP/1.1 as the server speaks it: requests in, responses out, faults in between."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.hub.errors import HubError
from tests.support.hub.faults import Entry, Fault, Faults, RequestLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from email.message import Message
    from pathlib import Path

CHUNK = 1 << 16


class Reset(Exception):
    """The connection is to be torn down, without an answer."""


@dataclass(frozen=True)
class Account:
    """Whom a token speaks for. ``role`` is the token's: "read" or "write"."""

    user: str
    role: str = "write"
    orgs: tuple[str, ...] = ()

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Where the account's repos may stand."""
        return (self.user, *self.orgs)


@dataclass
class Request:
    """One request. ``body`` yields its bytes as they arrive; ``account`` is known once it is dispatched."""

    entry: Entry
    raw_path: str
    query: Mapping[str, list[str]]
    headers: Message
    body: Iterator[bytes]
    account: Account | None = None

    @property
    def method(self) -> str:
        """GET, HEAD, POST, PUT or DELETE."""
        return self.entry.method

    def read(self) -> bytes:
        """The body."""
        return b"".join(self.body)

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty one."""
        try:
            data = json.loads(self.read() or b"{}")
        except ValueError:
            raise HubError(400, "The body is not JSON") from None
        if not isinstance(data, dict):
            raise HubError(400, "The body is not a JSON object")
        return data

    def flag(self, name: str) -> bool:
        """A boolean of the query."""
        return self.query.get(name, ["false"])[0].lower() in ("1", "true")


@dataclass
class Response:
    """One answer: a body in memory, or a slice of a file."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    file: Path | None = None
    start: int = 0
    length: int | None = None

    @classmethod
    def json(cls, data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """An answer in JSON."""
        headers = {"Content-Type": "application/json", **(headers or {})}
        return cls(json.dumps(data, default=str).encode(), status, headers)

    @property
    def size(self) -> int:
        """Bytes of body."""
        return len(self.body) if self.file is None else (self.length or 0)

    def chunks(self) -> Iterator[bytes]:
        """The body, piece by piece."""
        if self.file is None:
            for at in range(0, len(self.body), CHUNK):
                yield self.body[at : at + CHUNK]
            return
        left = self.size
        with self.file.open("rb") as file:
            file.seek(self.start)
            while left and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk


def serve_file(request: Request, path: Path, headers: dict[str, str]) -> Response:
    """A file, all of it or by the one range that was asked for."""
    size = path.stat().st_size
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if match is None or match.group(0) == "bytes=-":
        return Response(file=path, length=size, headers=headers)
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= size or start >= stop:
        raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Response(status=206, file=path, start=start, length=stop - start, headers=headers)


def error_response(error: HubError) -> Response:
    """A refusal as the Hub words it."""
    headers = dict(error.headers)
    if error.message.isprintable():
        headers["X-Error-Message"] = error.message
    if error.code:
        headers["X-Error-Code"] = error.code
    return Response.json({"error": error.message}, error.status, headers)


class Listener(ThreadingHTTPServer):
    """A port on 127.0.0.1 that answers with ``handle``, logs, and fails as told."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, handle: Callable[[Request], Response], log: RequestLog, faults: Faults
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.host, self.handle, self.log, self.faults = host, handle, log, faults
        self.broken: list[Exception] = []
        self._open: set[socket.socket] = set()
        self._torn: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        """Answer requests, in threads of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection, so that clients meet a dead host."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection for ``stop``."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        with self._lock:
            self._open.discard(request)
            torn = request in self._torn
            self._torn.discard(request)
        if torn:
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def tear(self, connection: socket.socket) -> None:
        """Have the connection end with a reset (RST): closed at once, with no orderly shutdown before."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with self._lock:
            self._torn.add(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    """Reads one request after another from a connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener
    server_version = "loopback-hub"

    def log_message(self, format: str, *args: Any) -> None:
        """The server keeps its own log."""

    def do_GET(self) -> None:
        """Answer one request, whatever its method."""
        parts = urlsplit(self.path)
        entry = Entry(self.server.host, self.command, unquote(parts.path), self.headers.get("Range"))
        self.server.log.add(entry)
        fault = self.server.faults.take(entry)
        body = self._body(entry, fault)
        request = Request(entry, parts.path, parse_qs(parts.query), self.headers, body)
        try:
            response = self._answer(request, fault)
            for _ in body:  # what the handler did not read stands before the next request
                pass
            if fault.lose_response:
                raise Reset
            self._send(response, entry, fault)
        except Reset:
            self.close_connection = True
            self.server.tear(self.connection)
        except ConnectionError:
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self, request: Request, fault: Fault) -> Response:
        if fault.delay:
            time.sleep(fault.delay)
        try:
            if fault.status is not None:
                raise HubError(fault.status, fault.message)
            return self.server.handle(request)
        except HubError as error:
            return error_response(error)
        except (Reset, ConnectionError):
            raise
        except Exception as error:  # a fault of the server itself: tell the test, do not leave it guessing
            self.server.broken.append(error)
            traceback.print_exc()
            return error_response(HubError(500, f"The loopback Hub is broken: {error!r}"))

    def _body(self, entry: Entry, fault: Fault) -> Iterator[bytes]:
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        pieces = self._chunked() if chunked else self._counted(int(self.headers.get("Content-Length") or 0))
        for piece in pieces:
            entry.received += len(piece)
            self._pace(fault, piece)
            for limit in (fault.reset_after, fault.close_after):
                if limit is not None and entry.received >= limit:
                    raise Reset
            yield piece

    def _counted(self, left: int) -> Iterator[bytes]:
        while left:
            piece = self.rfile.read1(min(CHUNK, left))
            if not piece:
                msg = "the client left in the middle of its body"
                raise ConnectionResetError(msg)
            left -= len(piece)
            yield piece

    def _chunked(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield from self._counted(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def _send(self, response: Response, entry: Entry, fault: Fault) -> None:
        body = self.command != "HEAD"
        size = response.size if fault.truncate is None else min(fault.truncate, response.size)
        headers = {**response.headers, "Content-Length": str(size), **fault.headers}
        if fault.retry_after is not None:
            headers["Retry-After"] = str(fault.retry_after)
        if fault.etag is not None:
            headers.update({name: f'"{fault.etag}"' for name in ("ETag", "X-Linked-Etag") if name in headers})
        entry.status = response.status
        self.send_response(response.status)
        for name, value in headers.items():
            self.send_header(name, value.encode("ascii", "replace").decode())
        self.end_headers()
        if not body:
            return
        ends = [size, *(n for n in (fault.reset_after, fault.close_after) if n is not None)]
        left = min(ends)
        for chunk in response.chunks():
            piece = _flip(chunk[:left]) if fault.corrupt and entry.sent == 0 else chunk[:left]
            left -= len(piece)
            entry.sent += len(piece)
            self._pace(fault, piece)
            self.wfile.write(piece)
            if not left:
                break
        if min(ends) < size:
            if fault.reset_after is not None:
                raise Reset
            self.close_connection = True

    @staticmethod
    def _pace(fault: Fault, piece: bytes) -> None:
        if fault.bytes_per_second:
            time.sleep(len(piece) / fault.bytes_per_second)


def _flip(piece: bytes) -> bytes:
    return bytes([piece[0] ^ 0x01]) + piece[1:] if piece else piece
