"""Turn-taking: no wake is lost, nobody steps at the same time as another."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from takhin import errors
from takhin.server.call import Resume
from takhin.server.parked import Next, ParkedStream, StreamSet
from takhin.server.senders import Senders
from takhin.server.timers import Timers


class FakeContext:
    """The part of a call's context that a stream uses."""

    def __init__(self, alive: bool = True) -> None:
        self.alive = alive
        self.callbacks: list[Callable[[], None]] = []
        self.code: grpc.StatusCode | None = None
        self.cancelled = False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self.alive:
            self.callbacks.append(callback)
        return self.alive

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        pass

    def set_trailing_metadata(self, metadata: object) -> None:
        pass

    def cancel(self) -> None:
        self.cancelled = True


class FakeCall:
    """The part of a call that a stream uses."""

    def __init__(self, context: FakeContext) -> None:
        self.context = context
        self.sent: list[bytes | None] = []
        #: The peer has to read first.
        self.held_up = False
        self.resume: Resume | None = None

    def send(self, message: bytes | None, taken: Callable[[], None] | None = None) -> None:
        self.sent.append(message)

    def wait_to_send(self, resume: Resume) -> bool:
        if self.held_up:
            self.resume = resume
        return self.held_up


class Stream(ParkedStream):
    """Sends what is in its inbox."""

    def __init__(self, senders: Senders, context: FakeContext | None = None) -> None:
        self.fake = context or FakeContext()
        self.peer = FakeCall(self.fake)
        self.sent = self.peer.sent
        super().__init__(self.peer, senders)  # type: ignore[arg-type]
        self.inbox: list[bytes] = []
        self.stepping = 0
        self.overlaps = 0
        self.released = 0
        self.finish = False

    def step(self) -> Next:
        self.stepping += 1
        if self.stepping > 1:
            self.overlaps += 1
        try:
            if self.ending is not None:
                raise self.ending
            if self.inbox:
                self.call.send(self.inbox.pop(0))
                return Next.AGAIN if random.random() < 0.5 or self.inbox or self.finish else Next.PARK
            return Next.DONE if self.finish else Next.PARK
        finally:
            self.stepping -= 1

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def senders() -> Iterator[Senders]:
    timers = Timers()
    timers.start()
    running = Senders(4, 8, timers)
    running.start()
    yield running
    assert running.stop(10)
    timers.stop()


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to it in time"
        time.sleep(0.002)


def test_no_wake_is_lost_and_no_two_step_at_once(senders: Senders) -> None:
    stream = Stream(senders)

    def feed() -> None:
        for n in range(2000):
            stream.inbox.append(b"x")
            if n % 3:
                stream.wake()
            else:
                stream.run_here()

    threads = [threading.Thread(target=feed) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: len(stream.sent) == 8000)
    assert stream.overlaps == 0
    assert not stream.inbox


@pytest.mark.parametrize("wake", ["wake", "run_here"])
def test_a_wake_in_the_middle_of_a_step_makes_one_more(senders: Senders, wake: str) -> None:
    looked, woken = threading.Event(), threading.Event()
    steps: list[int] = []

    class Slow(Stream):
        def step(self) -> Next:
            steps.append(1)
            looked.set()
            assert woken.wait(5)
            return Next.PARK

    stream = Slow(senders)
    stream.wake()
    assert looked.wait(5)
    # The step has looked and found nothing; now there is something.
    getattr(stream, wake)()
    woken.set()
    wait_until(lambda: len(steps) == 2)
    time.sleep(0.02)
    assert len(steps) == 2


def test_a_stream_that_is_done_sends_its_end_once_and_is_released(senders: Senders) -> None:
    stream = Stream(senders)
    stream.inbox.append(b"a")
    stream.finish = True
    for _ in range(10):
        stream.wake()
    wait_until(lambda: None in stream.sent)
    stream.wake()
    stream.run_here()
    time.sleep(0.02)
    assert stream.sent == [b"a", None]
    assert stream.released == 1
    assert stream.fake.code is None


def test_an_error_ends_the_stream_with_its_status(senders: Senders) -> None:
    stream = Stream(senders)
    stream.end(errors.Unavailable("stopping"))
    wait_until(lambda: None in stream.sent)
    assert stream.fake.code is grpc.StatusCode.UNAVAILABLE
    assert stream.released == 1


def test_a_defect_ends_the_stream_with_internal(senders: Senders, caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream(senders)
    stream.step = lambda: 1 / 0  # type: ignore[method-assign, return-value, assignment]
    stream.wake()
    wait_until(lambda: None in stream.sent)
    assert stream.fake.code is grpc.StatusCode.INTERNAL
    assert "internal error" in caplog.text


def test_a_client_that_went_away_gets_nothing_and_everything_is_released(senders: Senders) -> None:
    stream = Stream(senders)
    stream.watch_client()
    [callback] = stream.fake.callbacks
    callback()
    wait_until(lambda: stream.released == 1)
    assert stream.sent == []


def test_a_client_that_had_gone_before_it_was_watched_is_noticed(senders: Senders) -> None:
    stream = Stream(senders, FakeContext(alive=False))
    stream.watch_client()
    wait_until(lambda: stream.released == 1)


def test_a_set_of_streams_is_bounded_and_ends_all(senders: Senders) -> None:
    streams = StreamSet("test", 2)
    first, second = Stream(senders), Stream(senders)
    streams.add(first)
    streams.add(second)
    with pytest.raises(errors.TooManyStreams):
        streams.add(Stream(senders))
    streams.discard(second)
    assert len(streams) == 1
    streams.end(errors.Unavailable("stopping"))
    wait_until(lambda: first.released == 1)
    assert second.released == 0
    with pytest.raises(errors.Unavailable):
        streams.add(second)


def test_a_stream_whose_peer_has_to_read_first_parks_and_goes_on_when_it_has(senders: Senders) -> None:
    stream = Stream(senders)
    stream.peer.held_up = True
    stream.inbox.append(b"a")
    stream.wake()
    wait_until(lambda: stream.peer.resume is not None)
    time.sleep(0.02)
    assert stream.sent == []
    waits: list[bool] = []
    step = stream.step
    stream.step = lambda: (waits.append(stream.may_wait), step())[1]  # type: ignore[method-assign]
    for here in (True, False):
        resume = stream.peer.resume
        assert resume is not None
        stream.peer.held_up = False
        stream.inbox.append(b"b")
        before = len(waits)
        resume(here)
        if here:
            assert len(waits) > before, "by this thread, at once"
            assert not waits[before], "and without waiting"
        wait_until(lambda: not stream.inbox)
    assert stream.sent == [b"a", b"b", b"b"]
    assert waits[-1], "the senders may wait"


def test_a_stream_that_is_to_end_does_not_wait_for_its_peer(senders: Senders) -> None:
    stream = Stream(senders)
    stream.peer.held_up = True
    stream.end(errors.Unavailable("the server is stopping"))
    wait_until(lambda: stream.sent == [None])
    assert stream.fake.code is grpc.StatusCode.UNAVAILABLE
