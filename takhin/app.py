"""The composition root: builds the parts, starts them, and stops them in the right order.

Logging is set up before, by whoever has read the configuration.
"""

from __future__ import annotations

import errno
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
from .errors import ConfigError, Unavailable
from .observe.logging import setup as set_up_logging
from .observe.metrics import build_registry
from .observe.sdnotify import Notifier, StartReporter, Watchdog
from .reload import CHANGEABLE, Outcome, Plan, Reader, Reconfigurable, plan, write_outcome
from .server.dashboard import Dashboard
from .server.debug import debug_pages
from .server.grpc_server import GrpcServer
from .server.http import HttpServer
from .server.loopback import Loopback

log = logging.getLogger(__name__)

#: Seconds. Threads wait for each other all the time here; Python's default of 5 ms makes each wait for the GIL
#: that long while another thread computes. Measured: about a fifth more calls.
SWITCH_INTERVAL = 0.0005
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: What goes through the pipe that ``run`` reads, besides the numbers of signals.
_STOP, _RELOAD = b"x", b"h"
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


def _has_terminal() -> bool:
    """Whether the process has a controlling terminal. SIGHUP says that it has gone, or that a file has changed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as problem:
        return problem.errno not in (errno.ENXIO, errno.EIO, errno.ENOENT, errno.ENODEV)
    return True


class App:
    """One server. ``start`` and ``stop`` from one thread; ``request_stop`` from anywhere."""

    def __init__(
        self, config: Config, engine_factory: EngineFactory = local_engine, reread: Reader | None = None
    ) -> None:
        """``reread`` gives the configuration as it is now in its file, for a reload."""
        self.config = config
        self.notifier = Notifier()
        self._reread = reread
        self._reloads = 0
        self.clock = Clock()
        self._state = "starting"
        self._lock = threading.Lock()
        self._engine_claimed = False
        #: No thread is stuck in a call.
        self._all_home = True
        # Not an Event: a signal handler that sets one can meet the lock that its own thread holds.
        self._stop_reader, self._stop_writer = os.pipe()
        os.set_blocking(self._stop_writer, False)
        self.registry = build_registry(__version__, "local")
        self.engine = engine_factory(config, self.clock, self.registry)
        self.dashboard = Dashboard(self.engine, config.grpc.addr)
        self.http: HttpServer | None = None
        if config.http.addr:
            debug = debug_pages(lambda: self.config) if config.http.debug else {}
            self.http = HttpServer(config.http.addr, self.registry, self.causes, self.page, debug)
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
            return [self._not_running()]
        health = self.engine.health()
        return list(health.causes) or [health.status] if health.status == "unhealthy" else []

    def _not_running(self) -> str:
        """What it does instead; how far a start is."""
        progress = self.engine.progress() if self._state == "starting" else ""
        return f"{self._state}: {progress}" if progress else self._state

    def page(self, query: str) -> tuple[bytes, str]:
        """The page for people, see ``Dashboard``. Raises ``Unavailable`` while there is nothing to show."""
        if self._state != "running":
            raise Unavailable(self._not_running())
        return self.dashboard.render(query)

    def start(self) -> None:
        """Recover, then serve. The HTTP port answers from the beginning, so that a long recovery can be watched.
        Raises ``TakhinError`` with everything stopped again."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        for sentence in config_warnings(self.config):
            log.warning(sentence)
        try:
            # First of all: who cannot have the data must not answer for who has it.
            self.engine.claim()
            self._engine_claimed = True
            if self.http is not None:
                self.http.start()
            self.engine.start()
            if self.http is not None:
                self.dashboard.history.start()
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

    def describe(self) -> str:
        """The state in a sentence, for people."""
        if self._state != "running":
            return self._not_running()
        health = self.engine.health()
        causes = f" ({'; '.join(health.causes)})" if health.causes else ""
        return f"serving on port {self.grpc_port}: {health.status}{causes}"

    def reload(self) -> Outcome:
        """Read the configuration again and take what can change while running. What cannot be used changes
        nothing. One thread at a time."""
        self.notifier.reloading()
        self._reloads += 1
        outcome = self._reload()
        log.log(
            logging.ERROR if outcome.error else logging.INFO,
            "reload refused: nothing is changed" if outcome.error else "reloaded",
            extra={
                "fields": {"error": outcome.error}
                if outcome.error
                else {"changed": ", ".join(outcome.changed), "needs_restart": ", ".join(outcome.needs_restart)}
            },
        )
        write_outcome(Path(self.config.data_dir), outcome)
        self.notifier.ready(self.describe())
        return outcome

    def _reload(self) -> Outcome:
        if self._reread is None:
            return Outcome(os.getpid(), self._reloads, "there is no configuration to read again")
        own = isinstance(self.engine, Reconfigurable)
        sections = CHANGEABLE if own else tuple(name for name in CHANGEABLE if name not in ("limits", "topics"))
        try:
            found = plan(self.config, self._reread(), sections)
        except ConfigError as problem:
            return Outcome(os.getpid(), self._reloads, problem.message)
        self._apply(found)
        return Outcome(os.getpid(), self._reloads, "", found.changed, found.needs_restart)

    def _apply(self, found: Plan) -> None:
        config = self.config = found.config
        if isinstance(self.engine, Reconfigurable):
            self.engine.reconfigure(config.topics, config.limits)
        self.grpc.set_max_inflight_bytes(config.memory.max_inflight_bytes)
        if any(path.startswith("logging.") for path in found.changed):
            set_up_logging(config.logging.level, config.logging.format)

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
                if self._engine_claimed:
                    self.engine.stop()
            finally:
                if self.http is not None:
                    self.http.stop()
                    self.dashboard.history.stop()
                self._state = "stopped"
            if was_running:
                log.info("stopped")

    def request_stop(self) -> None:
        """Make ``run`` stop. From any thread and from signal handlers; again and again does nothing more."""
        self._ask(_STOP)

    def request_reload(self) -> None:
        """Make ``run`` reload, once it serves. As ``request_stop``."""
        self._ask(_RELOAD)

    def _ask(self, what: bytes) -> None:
        try:
            os.write(self._stop_writer, what)
        except OSError:
            pass  # the pipe is full of requests, or ``run`` is over

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, reload on SIGHUP; gives the exit code. Raises as ``start``.

        For the main thread of a process that ends afterwards: both signals are ignored from then on.
        """

        had_terminal = _has_terminal()

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP and not (had_terminal and not _has_terminal()):
                self.request_reload()
            else:
                self.request_stop()

        for number in _SIGNALS:
            signal.signal(number, on_signal)
        # The kernel may hand a signal to any thread (the second of two at once, for one), which does not wake this
        # one out of its read. A byte in the pipe does; the handlers run then.
        woken_before = signal.set_wakeup_fd(self._stop_writer, warn_on_full_buffer=False)
        watchdog: Watchdog | None = None
        loopback: Loopback | None = None
        try:
            self._start_and_report()
            if self.notifier.watchdog_seconds:
                loopback = Loopback(self.config.grpc.addr, self.grpc_port)
                watchdog = Watchdog(self.notifier, loopback.check, self.describe)
                watchdog.start()
            while _STOP not in (asked := os.read(self._stop_reader, 64)):
                if _RELOAD in asked:
                    self.reload()
            self.notifier.stopping("stopping: ends calls, flushes everything")
            self.stop()
        finally:
            # One more signal, on the last yards, must not spoil the exit code.
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            signal.set_wakeup_fd(woken_before)
            if watchdog is not None and loopback is not None:
                watchdog.stop()
                loopback.close()
            self.close()
        if not self._all_home:
            # Python would wait for the stuck threads for ever. The engine is stopped, and all is flushed.
            logging.shutdown()
            os._exit(0)
        return 0

    def _start_and_report(self) -> None:
        reporter = StartReporter(self.notifier, self.describe)
        if self.notifier.enabled:
            reporter.start()
        try:
            self.start()
        finally:
            reporter.stop()
        self.notifier.ready(self.describe())

    def close(self) -> None:
        """Stop, and give back what the object itself holds."""
        self.stop()
        for descriptor in (self._stop_reader, self._stop_writer):
            try:
                os.close(descriptor)
            except OSError:
                pass
        self._stop_reader = self._stop_writer = -1
