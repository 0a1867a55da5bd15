"""The pool of sending threads: it grows while its threads are stuck, and shrinks again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from takhin.server.senders import Senders
from takhin.server.timers import Timers


class FakeJob:
    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.evicted = threading.Event()

    def run(self, may_wait: bool = True) -> None:
        self.may_wait = may_wait
        self.thread = threading.current_thread()
        self.call()

    def evict(self) -> None:
        self.evicted.set()


class StuckJob(FakeJob):
    """Runs until it is evicted."""

    def __init__(self) -> None:
        super().__init__(lambda: self.evicted.wait(30))


@pytest.fixture
def timers() -> Iterator[Timers]:
    running = Timers()
    running.start()
    yield running
    running.stop()


@pytest.fixture
def make(timers: Timers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], Senders]]:
    made: list[Senders] = []

    def factory(threads: int, limit: int) -> Senders:
        senders = Senders(threads, limit, timers)
        senders.start()
        made.append(senders)
        return senders

    yield factory
    for senders in made:
        assert senders.stop(10)


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to it in time"
        time.sleep(0.005)


def test_every_job_runs_once(make: Callable[[int, int], Senders]) -> None:
    senders = make(4, 8)
    ran: list[int] = []
    for n in range(1000):
        senders.submit(FakeJob(lambda n=n: ran.append(n)))
    wait_until(lambda: len(ran) == 1000)
    assert sorted(ran) == list(range(1000))


def test_jobs_run_while_more_threads_are_stuck_than_the_pool_began_with(make: Callable[[int, int], Senders]) -> None:
    senders = make(2, 64)
    stuck = [StuckJob() for _ in range(20)]
    for job in stuck:
        senders.submit(job)
    done = threading.Event()
    senders.submit(FakeJob(done.set))
    assert done.wait(5)
    assert senders.thread_count > 20
    for job in stuck:
        job.evict()


def test_at_the_limit_the_longest_stuck_are_given_up(
    make: Callable[[int, int], Senders], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Senders, "EVICT_AFTER_SECONDS", 0.05)
    senders = make(2, 2)
    first, second = StuckJob(), StuckJob()
    senders.submit(first)
    time.sleep(0.02)
    senders.submit(second)
    done = threading.Event()
    senders.submit(FakeJob(done.set))
    assert done.wait(5)
    assert first.evicted.is_set()
    assert not second.evicted.is_set()
    second.evict()


def test_threads_that_are_not_needed_any_more_end(
    make: Callable[[int, int], Senders], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Senders, "IDLE_SECONDS", 0.05)
    senders = make(1, 16)
    stuck = [StuckJob() for _ in range(8)]
    for job in stuck:
        senders.submit(job)
    wait_until(lambda: senders.thread_count >= 8)
    for job in stuck:
        job.evict()
    wait_until(lambda: senders.thread_count == 1)


def test_a_failing_job_does_not_end_its_thread(
    make: Callable[[int, int], Senders], caplog: pytest.LogCaptureFixture
) -> None:
    senders = make(1, 1)
    done = threading.Event()
    senders.submit(FakeJob(lambda: 1 / 0))
    senders.submit(FakeJob(done.set))
    assert done.wait(5)
    assert "internal error" in caplog.text
    assert senders.thread_count == 1


def test_quick_jobs_do_not_make_the_pool_grow(make: Callable[[int, int], Senders]) -> None:
    senders = make(2, 64)
    left = threading.Semaphore(0)
    for _ in range(3000):
        senders.submit(FakeJob(left.release))
    for _ in range(3000):
        assert left.acquire(timeout=5)
    assert senders.thread_count <= 4


def test_an_idle_pool_does_not_run(make: Callable[[int, int], Senders]) -> None:
    senders = make(8, 64)
    done = threading.Event()
    senders.submit(FakeJob(done.set))
    assert done.wait(5)
    time.sleep(0.05)
    begun = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - begun < 0.05


def test_who_keeps_jobs_runs_them_itself_and_does_not_wait_in_them(make: Callable[[int, int], Senders]) -> None:
    senders = make(2, 4)
    ran: list[int] = []
    jobs = [FakeJob(lambda n=n: ran.append(n)) for n in range(3)]
    senders.keep()
    for job in jobs:
        senders.submit(job)
    time.sleep(0.05)
    assert not ran
    # What others submit meanwhile is for the pool.
    other = FakeJob(lambda: ran.append(-1))
    threading.Thread(target=senders.submit, args=(other,)).start()
    wait_until(lambda: ran == [-1])
    assert other.thread is not threading.current_thread()
    assert other.may_wait
    senders.run_kept()
    assert ran == [-1, 0, 1, 2]
    assert {(job.thread, job.may_wait) for job in jobs} == {(threading.current_thread(), False)}


def test_what_a_kept_job_submits_is_for_the_pool(make: Callable[[int, int], Senders]) -> None:
    senders = make(1, 4)
    again = FakeJob(lambda: None)
    senders.keep()
    senders.submit(FakeJob(lambda: senders.submit(again)))
    senders.run_kept()
    wait_until(lambda: hasattr(again, "may_wait"))
    assert again.may_wait
    assert again.thread is not threading.current_thread()


def test_no_more_jobs_are_kept_than_are_soon_done(make: Callable[[int, int], Senders]) -> None:
    senders = make(2, 4)
    jobs = [FakeJob(lambda: None) for _ in range(Senders.MOST_KEPT + 5)]
    senders.keep()
    for job in jobs:
        senders.submit(job)
    wait_until(lambda: sum(hasattr(job, "thread") for job in jobs) == 5)
    senders.run_kept()
    assert sum(job.thread is threading.current_thread() for job in jobs) == Senders.MOST_KEPT


def test_a_defect_in_a_kept_job_stops_neither_the_others_nor_who_keeps_them(
    make: Callable[[int, int], Senders], caplog: pytest.LogCaptureFixture
) -> None:
    senders = make(1, 4)
    ran: list[int] = []
    senders.keep()
    senders.submit(FakeJob(lambda: 1 / 0))
    senders.submit(FakeJob(lambda: ran.append(1)))
    senders.run_kept()
    assert ran == [1]
    assert "division by zero" in caplog.text
    # And it keeps nothing any more.
    job = FakeJob(lambda: ran.append(2))
    senders.submit(job)
    wait_until(lambda: ran == [1, 2])
    assert job.thread is not threading.current_thread()
