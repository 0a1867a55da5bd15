"""What systemd is told, held against a socket that plays systemd's part."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from takhin.observe.sdnotify import Notifier, StartReporter, Watchdog


class Manager:
    """Systemd's end of the socket."""

    def __init__(self, address: str) -> None:
        self.name = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(5)

    def notifier(self, **environ: str) -> Notifier:
        return Notifier({"NOTIFY_SOCKET": self.name, **environ})

    def message(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())

    def nothing_for(self, seconds: float) -> bool:
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(5)
        return False


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(f"@takhin-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify"))
    yield made
    made.socket.close()


def test_ready_comes_with_a_status_of_one_line(manager: Manager) -> None:
    manager.notifier().ready("serving\non two lines")
    assert manager.message() == {"READY": "1", "STATUS": "serving on two lines"}


def test_a_reload_carries_the_monotonic_time(manager: Manager) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    manager.notifier().reloading()
    message = manager.message()
    assert message["RELOADING"] == "1"
    assert before <= int(message["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_long_start_tells_how_far_it_is_and_asks_for_time(manager: Manager) -> None:
    steps = iter(["1 of 3", "2 of 3", "3 of 3"])
    reporter = StartReporter(manager.notifier(), lambda: next(steps, "3 of 3"), seconds=0.02)
    reporter.start()
    try:
        seen = [manager.message() for _ in range(3)]
    finally:
        reporter.stop()
    assert [message["STATUS"] for message in seen] == ["1 of 3", "2 of 3", "3 of 3"]
    assert all(int(message["EXTEND_TIMEOUT_USEC"]) >= 10_000_000 for message in seen)


def test_a_start_in_which_nothing_moves_is_given_no_more_time(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("takhin.observe.sdnotify.STUCK_SECONDS", 0.0)
    StartReporter(manager.notifier(), lambda: "1 of 3").step()
    assert "EXTEND_TIMEOUT_USEC" not in manager.message()


def test_the_watchdog_is_fed_only_after_a_call_was_answered(manager: Manager) -> None:
    answers = True
    limits: list[float] = []

    def check(limit: float) -> bool:
        limits.append(limit)
        return answers

    watchdog = Watchdog(manager.notifier(WATCHDOG_USEC="400000"), check, lambda: "serving")
    watchdog.start()
    try:
        assert [manager.message().get("WATCHDOG") for _ in range(2)] == ["1", "1"]
        answers = False
        while "WATCHDOG" in manager.message():
            pass
        assert [manager.message().get("WATCHDOG") for _ in range(3)] == [None] * 3
    finally:
        watchdog.stop()
    assert all(limit <= 0.2 for limit in limits)


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getppid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_for_this_process_or_its_loader(environ: dict[str, str], seconds: float) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/run/nobody", **environ}).watchdog_seconds == seconds


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "relative"}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_without_systemd_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready("serving")
    assert notifier.enabled == ("/nowhere/at/all" in environ.values())
