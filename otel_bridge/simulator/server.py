"""An HTTP/1.1 server on loopback that keeps a log of requests and can be told to fail."""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

import orjson
import zstandard

Action = Literal[
    "answer",
    "close",
    "hang",
    "accept_then_close",
    "accept_then_hang",
    "cut_line",
    "cut_mid_line",
    "cut_connection",
]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it arrived; `body` is decompressed, `headers` have lower-case names."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    received: float

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return orjson.loads(self.body)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; a body of several chunks is streamed."""

    status: int = 200
    body: bytes | Iterable[bytes] = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, value: Any, status: int = 200, **headers: str) -> Response:
        """An answer with a JSON body."""
        return cls(status, orjson.dumps(value), {"content-type": "application/json", **headers})


@dataclass(slots=True)
class _Fault:
    method: str
    path: re.Pattern[str]
    action: Action
    status: int | None
    headers: Mapping[str, str]
    delay: float
    times: float
    body: bytes | None
    location: str | None


class LoopbackServer:
    """A context manager: it answers on `url` while open. Subclasses say what in `answer`.

    What its parameters set are attributes that may be changed while it is open.
    """

    def __init__(self, *, latency: float = 0.0) -> None:
        self.latency = latency
        """Seconds before every answer."""
        self.clock_offset = timedelta(0)
        """By how much the server's clock is ahead of this machine's."""
        self.requests: list[Request] = []
        """Every request so far, in order of arrival."""
        self.stopped = threading.Event()
        self._faults: list[_Fault] = []
        self._lock = threading.RLock()
        self._http: _Http | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._http = _Http(self)
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        if self._http is not None and self._thread is not None:
            self._http.shutdown()
            self._http.close_connections()
            self._http.server_close()
            self._thread.join()

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
        if self._http is None:
            raise RuntimeError("the server is not open; use it in a with statement")
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def now(self) -> datetime:
        """The time by the server's clock, which the `Date` header names."""
        return datetime.now(UTC) + self.clock_offset

    def answer(self, request: Request) -> Response:
        """Answer a request."""
        raise NotImplementedError

    def error(self, status: int) -> Response:
        """The body that goes with a status that a fault asked for."""
        return Response.of_json({"detail": f"simulated {status}"}, status)

    def fail_next(
        self,
        method: str = ".*",
        path: str = ".*",
        *,
        status: int | None = None,
        action: Action = "answer",
        headers: Mapping[str, str] | None = None,
        delay: float = 0.0,
        times: float = 1,
        body: bytes | None = None,
        location: str | None = None,
    ) -> None:
        """Let the next `times` requests that match (regular expressions) fail.

        `status` answers with it instead of doing anything, with `body` or, by default, an error
        in JSON, and with the header Location where `location` is the base URL of another place;
        the actions close the connection or never answer, before or after the request took effect,
        or cut a streamed body. `delay` in seconds comes before any of it.
        """
        fault = _Fault(
            method,
            re.compile(path),
            action,
            status,
            headers or {},
            delay,
            times,
            body,
            location,
        )
        with self._lock:
            self._faults.append(fault)

    def refuse_all(self, status: int) -> None:
        """Answer everything with a status, until `recover`."""
        self.fail_next(status=status, times=float("inf"))

    def redirect_all(self, location: str, status: int = 307) -> None:
        """Redirect everything to the same path at another base URL, until `recover`."""
        self.fail_next(status=status, location=location, times=float("inf"))

    def show_log_in_page(self) -> None:
        """Answer everything with 200 and a page in HTML, as proxies do, until `recover`."""
        self.fail_next(
            status=200,
            headers={"content-type": "text/html; charset=utf-8"},
            body=b"<!DOCTYPE html><html><body><h1>Log in to the network</h1></body></html>",
            times=float("inf"),
        )

    def hang_all(self) -> None:
        """Accept everything and never answer, until `recover`."""
        self.fail_next(action="hang", times=float("inf"))

    def recover(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()

    def respond(self, request: Request) -> tuple[Response | None, Action]:
        """The answer to a request and how to give it, None for closing without one."""
        with self._lock:
            self.requests.append(request)
            fault = self._take_fault(request)
        self.stopped.wait(self.latency + (fault.delay if fault else 0.0))
        if fault is None:
            return self.answer(request), "answer"
        if fault.status is not None:
            refusal = self.error(fault.status)
            headers = {**refusal.headers, **fault.headers}
            if fault.location is not None:
                headers["location"] = fault.location + request.path
            body = refusal.body if fault.body is None else fault.body
            return Response(fault.status, body, headers), "answer"
        response = None if fault.action in ("hang", "close") else self.answer(request)
        if fault.action.endswith("hang"):
            self.stopped.wait()
        if fault.action.endswith(("hang", "close")):
            return None, "close"
        return response, fault.action

    def _take_fault(self, request: Request) -> _Fault | None:
        for fault in self._faults:
            if re.fullmatch(fault.method, request.method) and fault.path.search(request.path):
                fault.times -= 1
                if fault.times <= 0:
                    self._faults.remove(fault)
                return fault
        return None


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, owner: LoopbackServer) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server's."""

    def close_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Small answers must not wait for the client's delayed acknowledgement.
    disable_nagle_algorithm = True
    server: _Http

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The `Date` header, by the server's clock."""
        return super().date_time_string(timestamp or self.server.owner.now().timestamp())

    def log_message(self, *_: Any) -> None:
        """Nothing is printed: `requests` is the log."""

    def _serve(self) -> None:
        split = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(
            self.command,
            split.path,
            dict(parse_qsl(split.query)),
            headers,
            _decompressed(self._body(headers), headers.get("content-encoding", "")),
            time.time(),
        )
        response, action = self.server.owner.respond(request)
        if response is None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(response, action)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, response: Response, action: Action) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if isinstance(response.body, bytes):
            self.send_header("content-length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body)
            return
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for chunk in _cut(response.body, action):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if action == "cut_connection":
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(b"0\r\n\r\n")


def _cut(chunks: Iterable[bytes], action: Action) -> Iterator[bytes]:
    if action == "answer":
        yield from filter(None, chunks)
        return
    lines = b"".join(chunks).splitlines(keepends=True)
    half = len(lines) // 2
    whole = b"".join(lines[:half])
    if whole:
        yield whole
    if action != "cut_line":
        yield lines[half][: max(len(lines[half]) // 2, 1)]


def _decompressed(body: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(body)
    if encoding == "deflate":
        return zlib.decompress(body)
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return body
