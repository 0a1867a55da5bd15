"""The composition root: builds the parts, starts them, and stops them in the right order.

Logging is set up before, by whoever has read the configuration.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from prometheus_client import CollectorRegistry

from . import __version__
from .clock import Clock
from .config import Config
from .config import warnings as config_warnings
from .engine.base import Engine
from .observe.metrics import build_registry
from .server.grpc_server import GrpcServer
from .server.http import HttpServer

log = logging.getLogger(__name__)

#: Seconds. Threads wait for each other all the time here; Python's default of 5 ms makes each wait for the GIL
#: that long while another thread computes. Measured: about a fifth more calls.
SWITCH_INTERVAL = 0.0005
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Seconds of grace at most, so that a stop is over within ten seconds.
MAX_GRACE = 6

EngineFactory = Callable[[Config, Clock, CollectorRegistry], Engine]


def local_engine(config: Config, clock: Clock, registry: CollectorRegistry) -> Engine:
    """The embedded log."""
    from .engine.local import LocalEngine  # not needed by who brings another engine

    return LocalEngine(
        data_dir=Path(config.data_dir),
        log=config.log,
        topics=config.topics,
        limits=config.limits,
        clock=clock,
        registry=registry,
    )


class App:
    """One server. ``start`` and ``stop`` from one thread; ``request_stop`` from anywhere."""

    def __init__(self, config: Config, engine_factory: EngineFactory = local_engine) -> None:
        self.config = config
        self.clock = Clock()
        self._state = "starting"
        self._lock = threading.Lock()
        self._engine_started = False
        #: No thread is stuck in a call.
        self._all_home = True
        # Not an Event: a signal handler that sets one can meet the lock that its own thread holds.
        self._stop_reader, self._stop_writer = os.pipe()
        os.set_blocking(self._stop_writer, False)
        self.registry = build_registry(__version__, "local")
        self.engine = engine_factory(config, self.clock, self.registry)
        self.http = HttpServer(config.http.addr, self.registry, self.causes) if config.http.addr else None
        self.grpc = GrpcServer(config, self.engine, self.clock, self.registry)

    @property
    def grpc_port(self) -> int:
        return self.grpc.port

    @property
    def http_port(self) -> int:
        """0 when HTTP is off."""
        return self.http.port if self.http else 0

    def causes(self) -> list[str]:
        """Why the server is not ready; empty when it is."""
        if self._state != "running":
            return [self._state]
        health = self.engine.health()
        return list(health.causes) or [health.status] if health.status == "unhealthy" else []

    def start(self) -> None:
        """Recover, then serve. Raises ``TakhinError`` with everything stopped again."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        for sentence in config_warnings(self.config):
            log.warning(sentence)
        try:
            self.engine.start()
            self._engine_started = True
            if self.http is not None:
                self.http.start()
            self.grpc.start()
        except BaseException:
            self.stop()
            raise
        self._state = "running"
        self.grpc.health.set(True)
        fields: dict[str, object] = {
            "version": __version__,
            "addr": self.config.grpc.addr,
            "port": self.grpc_port,
            "data_dir": self.config.data_dir,
            "pid": os.getpid(),
        }
        if self.http is not None:
            fields |= {"http_addr": self.config.http.addr, "http_port": self.http_port}
        log.info("serving", extra={"fields": fields})

    def stop(self) -> None:
        """Nothing that was acknowledged is lost. Idempotent."""
        with self._lock:
            if self._state == "stopped":
                return
            was_running, self._state = self._state == "running", "stopping"
            if was_running:
                log.info("stopping")
            try:
                self._all_home = self.grpc.stop(min(self.config.grpc.shutdown_grace, MAX_GRACE))
                if self._engine_started:
                    self.engine.stop()
            finally:
                if self.http is not None:
                    self.http.stop()
                self._state = "stopped"
            if was_running:
                log.info("stopped")

    def request_stop(self) -> None:
        """Make ``run`` stop. From any thread and from signal handlers; again and again does nothing more."""
        try:
            os.write(self._stop_writer, b"x")
        except OSError:
            pass  # the pipe is full of requests, or ``run`` is over

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; gives the exit code. Raises as ``start``.

        For the main thread of a process that ends afterwards: both signals are ignored from then on.
        """

        def on_signal(number: int, _frame: FrameType | None) -> None:
            self.request_stop()

        for number in _SIGNALS:
            signal.signal(number, on_signal)
        try:
            self.start()
            os.read(self._stop_reader, 1)
            self.stop()
        finally:
            # One more signal, on the last yards, must not spoil the exit code.
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            self.close()
        if not self._all_home:
            # Python would wait for the stuck threads for ever. The engine is stopped, and all is flushed.
            logging.shutdown()
            os._exit(0)
        return 0

    def close(self) -> None:
        """Stop, and give back what the object itself holds."""
        self.stop()
        for descriptor in (self._stop_reader, self._stop_writer):
            try:
                os.close(descriptor)
            except OSError:
                pass
        self._stop_reader = self._stop_writer = -1
