"""Group commit by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from takhin import errors
from takhin.metadata_queue import CommitQueue, Ticket


class Disk:
    """Commits when it is told to, and remembers what came together."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def commit(self, tickets: list[Ticket[str]]) -> None:
        self.batches.append([ticket.work for ticket in tickets])
        self.started.release()
        assert self.go.acquire(timeout=10)
        for ticket in tickets:
            if ticket.work.startswith("bad"):
                ticket.error = errors.DiskFull(ticket.work)
            if ticket.work.startswith("worse"):
                raise RuntimeError(ticket.work)


def in_thread(call: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def queued(queue: CommitQueue[str], count: int) -> None:
    """Wait until so many callers wait."""
    for _ in range(5000):
        with queue._mutex:
            if len(queue._waiting) == count:
                return
        threading.Event().wait(0.001)
    raise AssertionError("they did not come")


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def queue(disk: Disk) -> CommitQueue[str]:
    queue = CommitQueue(disk.commit)
    queue.open()
    return queue


def fill(queue: CommitQueue[str], works: list[tuple[str, bool]], failures: dict[str, str]) -> list[threading.Thread]:
    def run(work: str, alone: bool) -> None:
        try:
            queue.run(work, alone=alone)
        except Exception as error:
            failures[work] = repr(error)

    threads = []
    for position, (work, alone) in enumerate(works):
        threads.append(in_thread(lambda work=work, alone=alone: run(work, alone)))  # type: ignore[misc]
        if position == 0:
            threading.Event().wait(0.01)
        else:
            queued(queue, position)
    return threads


def test_those_who_wait_are_committed_together_in_order(queue: CommitQueue[str], disk: Disk) -> None:
    threads = fill(queue, [("a", False), ("b", False), ("c", False), ("d", False)], {})
    disk.go.release(2)
    for thread in threads:
        thread.join(10)
    assert disk.batches == [["a"], ["b", "c", "d"]]


def test_work_that_wants_to_be_alone_is(queue: CommitQueue[str], disk: Disk) -> None:
    threads = fill(queue, [("a", False), ("b", False), ("C", True), ("D", True), ("e", False), ("f", False)], {})
    disk.go.release(6)
    for thread in threads:
        thread.join(10)
    assert disk.batches == [["a"], ["b"], ["C"], ["D"], ["e", "f"]]


def test_errors_go_to_those_whose_work_failed(queue: CommitQueue[str], disk: Disk) -> None:
    failures: dict[str, str] = {}
    threads = fill(queue, [("a", False), ("b", False), ("bad", False), ("d", False)], failures)
    disk.go.release(2)
    for thread in threads:
        thread.join(10)
    assert failures == {"bad": "DiskFull('bad')"}


def test_a_leader_that_breaks_leaves_nobody_waiting(queue: CommitQueue[str], disk: Disk) -> None:
    failures: dict[str, str] = {}
    threads = fill(queue, [("a", False), ("worse", False), ("c", False), ("D", True)], failures)
    disk.go.release(3)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert disk.batches == [["a"], ["worse", "c"], ["D"]]
    assert failures["worse"] == "RuntimeError('worse')"
    assert "DurabilityUnknown" in failures["c"]
    disk.go.release()
    queue.run("e", alone=False)


def test_a_waiter_that_is_interrupted_leaves_nobody_waiting(queue: CommitQueue[str], disk: Disk) -> None:
    class Interrupted:
        def acquire(self) -> bool:
            disk.go.release()  # the first commit ends: the next leader is named
            for _ in range(5000):
                if ticket.leads:
                    break
                threading.Event().wait(0.001)
            raise KeyboardInterrupt

        def release(self) -> None: ...

    threads = fill(queue, [("a", False)], {})
    ticket = Ticket("b", alone=False)
    with queue._mutex:
        queue._waiting.append(ticket)
    threads += [in_thread(lambda: queue.run("c", alone=False))]
    queued(queue, 2)
    ticket.woken = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        queue._wait(ticket)
    disk.go.release(5)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert disk.batches == [["a"], ["c"]]


def test_shut_waits_for_what_was_accepted_and_refuses_the_rest(queue: CommitQueue[str], disk: Disk) -> None:
    threads = fill(queue, [("a", False), ("b", False)], {})
    shutting = in_thread(queue.shut)
    shutting.join(0.05)
    assert shutting.is_alive()
    with pytest.raises(errors.Unavailable):
        queue.run("late", alone=False)
    disk.go.release(2)
    shutting.join(10)
    assert disk.batches == [["a"], ["b"]]
    for thread in threads:
        thread.join(10)
    queue.shut()
