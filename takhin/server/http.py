"""Metrics, probes and a page for people, over plain HTTP: /, /metrics, /livez, /readyz, /version, /debug/..."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from .. import __version__, address
from ..errors import AddressInUse, Unavailable
from ..observe.logging import incident
from .debug import Pages
from .timers import Timers

log = logging.getLogger(__name__)

#: Seconds that one request may take, however its bytes drip in.
REQUEST_SECONDS = 10.0
#: Requests at once.
MAX_REQUESTS = 32
#: Seconds that each of them surely has. When there is no room for one more, the oldest gives way after that:
#: whoever keeps connections open, or reads slowly, cannot keep a probe waiting.
SHARE_SECONDS = 0.2
#: Pages at once; they may wait for the engine.
MAX_PAGES = 8
#: Seconds after which a page that is not there yet is asked for again.
AGAIN_SECONDS = "2"

#: From the query of the URL, the page for people and its content security policy.
Page = Callable[[str], tuple[bytes, str]]
#: Why the server is not ready; empty when it is.
Causes = Callable[[], list[str]]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "takhin"
    sys_version = ""
    protocol_version = "HTTP/1.0"  # one request a connection: none stays open

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        debug = self.server.debug
        answers: dict[str, Callable[[], None]] = {
            "/": partial(self._page, query),
            "/metrics": self._metrics,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/version": self._version,
        }
        answer = answers.get(path)
        if path in debug:
            answer = partial(self._debug, debug[path])
        if answer is None or (path == "/" and self.server.page is None):
            there = " ".join(["/metrics /livez /readyz /version", *debug])
            self._send(HTTPStatus.NOT_FOUND, f"there are: {there}\n".encode())
            return
        try:
            answer()
        except OSError:
            raise
        except Unavailable as exc:
            # A browser that shows it looks again by itself.
            headers = {"Retry-After": AGAIN_SECONDS, "Refresh": AGAIN_SECONDS}
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{exc.message}\n".encode(), extra=headers)
        except Exception as exc:
            identity = incident(log, exc, path=path)
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, f"internal error, incident {identity}\n".encode())

    do_HEAD = do_GET

    def _metrics(self) -> None:
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._send(HTTPStatus.OK, encode(self.server.registry), content_type)

    def _livez(self) -> None:
        self._send(HTTPStatus.OK, b"alive\n")

    def _readyz(self) -> None:
        causes = self.server.causes()
        if causes:
            text = "".join(f"not ready: {cause}\n" for cause in causes)
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, text.encode())
        else:
            self._send(HTTPStatus.OK, b"ready\n")

    def _version(self) -> None:
        self._send(HTTPStatus.OK, json.dumps({"version": __version__}).encode() + b"\n", "application/json")

    def _page(self, query: str) -> None:
        assert self.server.page is not None
        if not self.server.pages.acquire(timeout=SHARE_SECONDS):
            raise Unavailable("too many pages at once")
        try:
            body, policy = self.server.page(query)
        finally:
            self.server.pages.release()
        extra = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        self._send(HTTPStatus.OK, body, "text/html; charset=utf-8", extra)

    def _debug(self, page: Callable[[], str]) -> None:
        self._send(HTTPStatus.OK, page().encode())

    def _send(
        self,
        code: HTTPStatus,
        body: bytes,
        content_type: str = "text/plain; charset=utf-8",
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("http request", extra={"fields": {"peer": self.client_address[0], "line": format % args}})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self, where: address.Address, family: socket.AddressFamily, registry: CollectorRegistry, causes: Causes
    ) -> None:
        self.address_family = family
        self.registry = registry
        self.causes = causes
        self.page: Page | None = None
        self.debug: Pages = {}
        self.timers = Timers()
        self.pages = threading.BoundedSemaphore(MAX_PAGES)
        self._room = threading.BoundedSemaphore(MAX_REQUESTS)
        self._lock = threading.Lock()
        #: When each that was not cut began, ``time.monotonic`` seconds; the oldest first.
        self._open: dict[socket.socket, float] = {}
        super().__init__((where.host or "::", where.port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6 and self.server_address[0] == "::":
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # HTTPServer's own looks the host's name up, which can take seconds.
        ThreadingHTTPServer.__mro__[3].server_bind(self)  # type: ignore[attr-defined]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self._cut_oldest()
            while not self._room.acquire(timeout=SHARE_SECONDS):
                self._cut_oldest()
        with self._lock:
            self._open[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._over(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        timer = self.timers.after(REQUEST_SECONDS, lambda: _cut(request))
        try:
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            self._over(request)

    def _over(self, request: socket.socket) -> None:
        with self._lock:
            self._open.pop(request, None)
        self._room.release()

    def _cut_oldest(self) -> None:
        with self._lock:
            oldest = next(iter(self._open), None)
            if oldest is None or time.monotonic() - self._open[oldest] < SHARE_SECONDS:
                return
            del self._open[oldest]
        _cut(oldest)

    def handle_error(self, request: Any, client_address: Any) -> None:
        fields = {"peer": str(client_address[0]), "cause": repr(sys.exception())}
        log.debug("http request failed", extra={"fields": fields})


def _cut(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # over already


class HttpServer:
    """Asleep until somebody asks."""

    def __init__(
        self,
        addr: str,
        registry: CollectorRegistry,
        causes: Causes,
        page: Page | None = None,
        debug: Pages | None = None,
    ) -> None:
        self._page = page
        self._debug = debug or {}
        self._addr = addr
        self._registry = registry
        self._causes = causes
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self.port = 0

    def start(self) -> int:
        """Listen and serve; gives the port. Raises ``AddressInUse``."""
        where = address.parse(self._addr)
        try:
            self._server = self._bound(where)
        except OSError as exc:
            reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else str(exc)
            raise AddressInUse(f"cannot listen on {where} (http.addr): {reason}") from None
        self.port = self._server.server_address[1]
        self._server.page, self._server.debug = self._page, self._debug
        self._server.timers.start()
        self._thread = threading.Thread(target=self._serve, args=(self._server,), name="takhin-http", daemon=True)
        self._thread.start()
        return self.port

    def stop(self) -> None:
        """Idempotent. Requests that run are left to their threads."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        self._stopping = True
        # Makes the listening socket readable, which is what the thread sleeps on.
        _cut(server.socket)
        self._thread.join()
        server.server_close()
        server.timers.stop()

    def _bound(self, where: address.Address) -> _Server:
        if where.host:
            family = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)[0][0]
            return _Server(where, family, self._registry, self._causes)
        if socket.has_ipv6:
            try:
                return _Server(where, socket.AF_INET6, self._registry, self._causes)
            except OSError as exc:
                if exc.errno is not None and "in use" in os.strerror(exc.errno):
                    raise
        # A machine without IPv6.
        return _Server(address.Address("0.0.0.0", where.port), socket.AF_INET, self._registry, self._causes)

    def _serve(self, server: _Server) -> None:
        # Not serve_forever: that one wakes twice a second to see whether it shall stop.
        while not self._stopping:
            server.handle_request()
