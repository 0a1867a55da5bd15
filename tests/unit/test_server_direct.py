"""Calls driven by our own completions, on a real gRPC server: every message once and in order, bounded, no end lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]
from prometheus_client import CollectorRegistry

from takhin.config import GrpcConfig
from takhin.observe.metrics import GrpcMetrics
from takhin.server import direct
from takhin.server.call import Call
from takhin.server.calls import Behaviour
from takhin.server.direct import MESSAGE_BYTES, READ_AHEAD_BYTES, UNSENT_BYTES, DirectCall
from takhin.server.options import server_options
from takhin.server.pools import CallPool
from takhin.server.router import Router
from takhin.server.senders import Senders
from takhin.server.stand_in import StandIn
from takhin.server.timers import Timers

PATIENCE = 15.0


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to it in time"
        time.sleep(0.002)


class Server:
    """One method, ``/s/m``, that does what the test says."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.calls: list[DirectCall] = []
        self.pool = CallPool("test", 4, 100)
        self.reject = CallPool("reject", 1, 1)
        self.held_up: list[None] = []
        self.senders = Senders(1, 1, Timers())
        self.stand_in = StandIn(lambda: self.held_up.append(None), self.senders)
        router = Router(GrpcMetrics(CollectorRegistry()), self.reject, self.stand_in)

        def keep(call: Call) -> None:
            assert isinstance(call, DirectCall)
            self.calls.append(call)
            behaviour(call)

        router.add("s", "m", "bidi_stream", keep, self.pool)
        self._server = grpc.server(ThreadPoolExecutor(1), options=server_options(GrpcConfig()))
        router.attach(self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.stand_in.start(self._server)
        self._server.start()
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)

    def stream(self, requests: Iterator[bytes]) -> Any:
        return self.channel.stream_stream("/s/m", None, None)(requests, timeout=4 * PATIENCE)

    def ask(self, request: bytes) -> bytes:
        answer: bytes = self.channel.unary_unary("/s/m", None, None)(request, timeout=PATIENCE)
        return answer

    def stop(self) -> None:
        self.channel.close()
        self._server.stop(0).wait(PATIENCE)
        self.stand_in.stop(PATIENCE)
        wait_until(lambda: self.pool.load == 0)
        self.pool.shutdown()
        self.reject.shutdown()


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], Server]]:
    made: list[Server] = []

    def make(behaviour: Behaviour) -> Server:
        made.append(Server(behaviour))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def in_thread(work: Callable[[Call], None]) -> Behaviour:
    return lambda call: call.spawn(lambda: work(call))


def send(call: Call, message: bytes, taken: Callable[[], None] | None = None) -> None:
    """When the peer has read."""
    read = threading.Event()
    while call.wait_to_send(lambda here: read.set()):
        assert read.wait(4 * PATIENCE)
        read.clear()
    call.send(message, taken)


def echo(call: Call) -> None:
    while messages := call.take():
        call.send_all(list(messages))
    call.send(None)


def test_every_message_comes_back_once_and_in_order(serve: Callable[[Behaviour], Server]) -> None:
    server = serve(in_thread(echo))
    sent = [b"%d" % n * (n % 50) for n in range(5000)]
    streams = [server.stream(iter(sent)) for _ in range(3)]
    for stream in streams:
        assert list(stream) == sent
        assert stream.code() is grpc.StatusCode.OK


def test_one_at_a_time_goes_as_well(serve: Callable[[Behaviour], Server]) -> None:
    server = serve(in_thread(echo))
    more = threading.Semaphore(1)

    def requests() -> Iterator[bytes]:
        for n in range(200):
            more.acquire()
            yield b"%d" % n

    stream = server.stream(requests())
    for n in range(200):
        assert next(stream) == b"%d" % n
        more.release()
    assert list(stream) == []


def test_requests_that_are_taken_where_they_arrive_and_others_keep_their_order(
    serve: Callable[[Behaviour], Server],
) -> None:
    """Every seventh is refused there, and some of those take their time in the thread."""
    threads: set[str] = set()

    def work(call: Call) -> None:
        def take_here(data: bytes) -> bool:
            threads.add(threading.current_thread().name)
            if int(data) % 7 == 0:
                return False
            call.send(data)
            return True

        call.take_here(take_here)
        while messages := call.take():
            if int(messages[0]) % 21 == 0:
                time.sleep(0.002)
            call.send_all(list(messages))
        call.send(None)

    server = serve(in_thread(work))
    sent = [b"%d" % n for n in range(3000)]
    streams = [server.stream(iter(sent)) for _ in range(2)]
    for stream in streams:
        assert list(stream) == sent
    # On the serving thread, but while that was held up.
    assert threads
    assert not any(name.startswith("takhin-test") for name in threads)


def test_a_defect_in_taking_a_request_ends_neither_the_stream_nor_the_serving_thread(
    serve: Callable[[Behaviour], Server], caplog: pytest.LogCaptureFixture
) -> None:
    def work(call: Call) -> None:
        def take_here(data: bytes) -> bool:
            if data == b"bad":
                raise ZeroDivisionError
            call.send(data)
            return True

        call.take_here(take_here)
        echo(call)

    server = serve(in_thread(work))
    with caplog.at_level(logging.ERROR):
        assert list(server.stream(iter([b"bad", b"good"])))[-1:] == [b"good"]


def test_short_work_is_done_on_the_serving_thread_and_elsewhere_while_that_is_held_up(
    serve: Callable[[Behaviour], Server],
) -> None:
    done: list[str] = []
    go_on = threading.Event()

    def behaviour(call: Call) -> None:
        def work() -> None:
            done.append(threading.current_thread().name)
            if len(done) == 1:
                assert go_on.wait(PATIENCE)
            call.answer(b"")

        call.receive(lambda _data: call.run(work))

    server = serve(behaviour)
    first = server.channel.unary_unary("/s/m", None, None).future(b"")
    wait_until(lambda: done)
    began = time.monotonic()
    server.ask(b"")
    assert time.monotonic() - began < 0.5
    assert done[1].startswith("takhin-test")
    go_on.set()
    first.result(PATIENCE)
    assert len(server.held_up) == 1
    wait_until(lambda: (server.ask(b""), done[-1] == done[0])[1])


def test_a_single_request_is_delivered_on_the_way_and_answered_with_the_end(
    serve: Callable[[Behaviour], Server],
) -> None:
    def behaviour(call: Call) -> None:
        call.receive(lambda data: call.spawn(lambda: call.answer(b"<" + (data or b"") + b">")))

    server = serve(behaviour)
    assert [server.ask(b"%d" % n) for n in range(100)] == [b"<%d>" % n for n in range(100)]
    assert server.ask(b"") == b"<>"


def test_a_call_without_a_request_is_delivered_as_none(serve: Callable[[Behaviour], Server]) -> None:
    delivered: list[bytes | None] = []

    def behaviour(call: Call) -> None:
        def deliver(data: bytes | None) -> None:
            delivered.append(data)
            call.spawn(lambda: call.send(None))

        call.receive(deliver)

    assert list(serve(behaviour).stream(iter(()))) == []
    assert delivered == [None]


def test_a_call_that_is_cancelled_before_its_request_is_delivered_as_none(
    serve: Callable[[Behaviour], Server],
) -> None:
    delivered: list[bytes | None] = []
    release = threading.Event()

    def behaviour(call: Call) -> None:
        def deliver(data: bytes | None) -> None:
            delivered.append(data)
            call.spawn(lambda: call.send(None))

        call.receive(deliver)

    def never() -> Iterator[bytes]:
        release.wait(PATIENCE)
        yield from ()

    server = serve(behaviour)
    stream = server.stream(never())
    wait_until(lambda: server.pool.load == 1)
    stream.cancel()
    wait_until(lambda: delivered == [None])
    wait_until(lambda: server.pool.load == 0)
    release.set()


def test_reading_ahead_is_bounded_and_goes_on(serve: Callable[[Behaviour], Server]) -> None:
    go = threading.Event()

    def late(call: Call) -> None:
        first = call.take()
        assert go.wait(PATIENCE)
        call.send_all(first)
        echo(call)

    server = serve(in_thread(late))
    sent = [b"%04d" % n + b"x" * 10_000 for n in range(400)]
    stream = server.stream(iter(sent))
    wait_until(lambda: server.calls and server.calls[0]._inbox_bytes >= READ_AHEAD_BYTES)
    time.sleep(0.1)
    inbox = server.calls[0]._inbox
    assert sum(len(message) + MESSAGE_BYTES for message in inbox) < READ_AHEAD_BYTES + 11_000
    go.set()
    assert list(stream) == sent


def test_a_sender_waits_for_a_peer_that_does_not_read(serve: Callable[[Behaviour], Server]) -> None:
    given = 0
    taken: list[int] = []

    def talk(call: Call) -> None:
        nonlocal given
        for n in range(300):
            send(call, b"x" * 50_000, lambda n=n: taken.append(n))  # type: ignore[misc]
            given += 1
        call.send(None)

    server = serve(in_thread(talk))
    stream = server.stream(iter([b""]))
    wait_until(lambda: given > 0)
    before = -1
    while before != given:
        before = given
        time.sleep(0.2)
    assert given < 300
    assert given - len(taken) <= UNSENT_BYTES // 50_000 + 1
    assert [len(message) for message in stream] == [50_000] * 300
    wait_until(lambda: len(taken) == 300)  # the last is told of after the end is sent
    assert taken == list(range(300))


def test_a_sender_that_waits_is_freed_when_the_call_is_cancelled(serve: Callable[[Behaviour], Server]) -> None:
    over = threading.Event()
    given, taken = [0], [0]

    def talk(call: Call) -> None:
        def one_taken() -> None:
            taken[0] += 1

        for _ in range(300):
            given[0] += 1
            send(call, b"x" * 50_000, one_taken)
        call.send(None)
        over.set()

    server = serve(in_thread(talk))
    stream = server.stream(iter([b""]))
    wait_until(lambda: given[0] > 1)
    time.sleep(0.2)
    assert not over.is_set()
    stream.cancel()
    assert over.wait(PATIENCE)
    # Whoever keeps an account of what is under way gets all of it back.
    wait_until(lambda: taken[0] == 300)


def test_the_end_comes_after_all_that_was_sent(serve: Callable[[Behaviour], Server]) -> None:
    def talk(call: Call) -> None:
        [request] = call.take()
        call.send_all([b"%d" % n for n in range(100)])
        if request:
            call.context.set_code(grpc.StatusCode.DATA_LOSS)
            call.context.set_details("that was all")
        call.send(None)

    server = serve(in_thread(talk))
    assert list(server.stream(iter([b""]))) == [b"%d" % n for n in range(100)]
    failed = server.stream(iter([b"fail"]))
    with pytest.raises(grpc.RpcError):
        list(failed)
    assert failed.code() is grpc.StatusCode.DATA_LOSS
    assert failed.details() == "that was all"


def test_who_waits_for_requests_is_freed_when_the_call_is_cancelled(serve: Callable[[Behaviour], Server]) -> None:
    over = threading.Event()
    release = threading.Event()

    def work(call: Call) -> None:
        echo(call)
        over.set()

    def one_and_wait() -> Iterator[bytes]:
        yield b"a"
        release.wait(PATIENCE)

    server = serve(in_thread(work))
    stream = server.stream(one_and_wait())
    assert next(stream) == b"a"
    stream.cancel()
    assert over.wait(PATIENCE)
    release.set()


def test_a_call_that_is_kept_holds_its_place_until_its_end(serve: Callable[[Behaviour], Server]) -> None:
    kept: list[Call] = []

    def behaviour(call: Call) -> None:
        def work() -> None:
            call.keep()
            kept.append(call)

        call.receive(lambda data: call.spawn(work))

    server = serve(behaviour)
    asked = [server.channel.unary_unary("/s/m", None, None).future(b"%d" % n) for n in range(20)]
    wait_until(lambda: len(kept) == 20)
    time.sleep(0.05)
    assert server.pool.load == 20  # of 4 threads
    for n, call in enumerate(kept):
        call.answer(b"%d" % n)
        assert server.pool.load == 19 - n
    assert sorted(future.result(PATIENCE) for future in asked) == sorted(b"%d" % n for n in range(20))


def test_a_kept_call_whose_client_goes_away_gives_its_place_back(serve: Callable[[Behaviour], Server]) -> None:
    def behaviour(call: Call) -> None:
        def work() -> None:
            call.keep()
            assert call.context.add_callback(call.abandon)

        call.receive(lambda data: call.spawn(work))

    server = serve(behaviour)
    asked = server.channel.unary_unary("/s/m", None, None).future(b"a")
    wait_until(lambda: server.pool.load == 1)
    time.sleep(0.05)
    asked.cancel()
    wait_until(lambda: server.pool.load == 0)


def test_a_defect_in_a_delivery_does_not_end_the_serving_thread(
    serve: Callable[[Behaviour], Server], caplog: pytest.LogCaptureFixture
) -> None:
    def behaviour(call: Call) -> None:
        def deliver(data: bytes | None) -> None:
            if data == b"bad":
                call.context.set_code(grpc.StatusCode.INTERNAL)
                call.spawn(lambda: call.send(None))
                raise ZeroDivisionError
            call.spawn(lambda: call.answer(b"good"))

        call.receive(deliver)

    server = serve(behaviour)
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.RpcError):
        server.ask(b"bad")
    assert server.ask(b"next") == b"good"
    assert "ZeroDivisionError" in caplog.text


def test_this_grpcio_is_supported_and_one_with_other_insides_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert direct.supported()
    with monkeypatch.context() as patch:
        patch.setattr(_server, "_status", lambda event, state: None)
        assert not direct.supported()
    with monkeypatch.context() as patch:
        patch.delattr(_server, "_possibly_finish_call")
        assert not direct.supported()
    with monkeypatch.context() as patch:
        patch.delattr(cygrpc, "ReceiveMessageOperation")
        assert not direct.supported()
    assert direct.supported()
