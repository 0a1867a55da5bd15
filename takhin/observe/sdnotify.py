"""What systemd is told about the service: the protocol of ``sd_notify(3)``, over the socket in ``NOTIFY_SOCKET``.

Outside a service of ``Type=notify`` there is no socket, and everything here does nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final

log = logging.getLogger(__name__)

#: Seconds that systemd shall wait on after each sign of life during a long start or stop.
EXTEND_SECONDS: Final = 30
#: Seconds between such signs.
SIGN_SECONDS: Final = 5.0
#: Seconds without progress after which a start is given no more time.
STUCK_SECONDS: Final = 600.0
#: The longest status, in characters.
MAX_STATUS: Final = 500


class Notifier:
    """Thread-safe. A message that cannot be sent is dropped: systemd has timeouts of its own."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = environ.get("NOTIFY_SOCKET", "")
        if not self._address.startswith(("/", "@")):
            self._address = ""
        #: Seconds within which the watchdog wants to be fed; 0 = there is none.
        self.watchdog_seconds = _watchdog_seconds(environ) if self._address else 0.0

    @property
    def enabled(self) -> bool:
        return bool(self._address)

    def send(self, **fields: str | int) -> None:
        if not self._address:
            return
        message = "".join(f"{name}={value}\n" for name, value in fields.items()).encode()
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(1.0)
                sender.sendto(message, address)
        except OSError as problem:
            log.debug("systemd not told", extra={"fields": {"error": str(problem)}})

    def status(self, text: str) -> None:
        self.send(STATUS=_line(text))

    def ready(self, text: str) -> None:
        self.send(READY=1, STATUS=_line(text))

    def reloading(self) -> None:
        """``ready`` has to follow, whatever comes out of it."""
        self.send(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)

    def stopping(self, text: str) -> None:
        self.send(STOPPING=1, STATUS=_line(text))

    def working(self, text: str) -> None:
        """Still starting or stopping: wait on."""
        self.send(STATUS=_line(text), EXTEND_TIMEOUT_USEC=EXTEND_SECONDS * 1_000_000)

    def alive(self, text: str) -> None:
        """Feed the watchdog."""
        self.send(WATCHDOG=1, STATUS=_line(text))


def _line(text: str) -> str:
    return " ".join(text.split())[:MAX_STATUS]


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    """The single executable runs as the child of its loader, whose id systemd means."""
    pid = environ.get("WATCHDOG_PID", "")
    if pid and pid not in (str(os.getpid()), str(os.getppid())):
        return 0.0
    try:
        return max(int(environ.get("WATCHDOG_USEC", "0")), 0) / 1_000_000
    except ValueError:
        return 0.0


class _Repeating(ABC):
    """A thread that does something at once, and again after each ``seconds``, until it is stopped."""

    def __init__(self, name: str, seconds: float) -> None:
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Idempotent; also when it was never started."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    @abstractmethod
    def step(self) -> None:
        """What it does. Must not raise."""

    def _run(self) -> None:
        while True:
            self.step()
            if self._stop.wait(self._seconds):
                return


class StartReporter(_Repeating):
    """While a long start goes on, tells how far it is and asks for more time; not for ever when nothing moves."""

    def __init__(self, notifier: Notifier, progress: Callable[[], str], seconds: float = SIGN_SECONDS) -> None:
        super().__init__("start-reporter", seconds)
        self._notifier = notifier
        self._progress = progress
        self._last = ""
        self._moved = time.monotonic()

    def step(self) -> None:
        text = self._progress()
        now = time.monotonic()
        if text != self._last:
            self._last, self._moved = text, now
        if now - self._moved < STUCK_SECONDS:
            self._notifier.working(text)
        else:
            self._notifier.status(f"{text} (nothing moved for {now - self._moved:.0f} s)")


class Watchdog(_Repeating):
    """Feeds systemd's watchdog, each time only after a call that a client could have made was answered."""

    def __init__(self, notifier: Notifier, check: Callable[[float], bool], describe: Callable[[], str]) -> None:
        """``check`` is given its time limit in seconds; ``describe`` gives the status to show."""
        # A quarter, so that one answer that does not come costs nothing.
        super().__init__("watchdog", notifier.watchdog_seconds / 4)
        self._notifier = notifier
        self._check = check
        self._describe = describe

    def step(self) -> None:
        limit = max(self._seconds, 0.1)
        if self._check(limit):
            self._notifier.alive(self._describe())
        else:
            log.error("no answer to our own health check", extra={"fields": {"seconds": round(limit, 1)}})
            self._notifier.status("no answer to our own health check")
