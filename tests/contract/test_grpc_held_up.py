"""An append that does not come back: everybody else is served, and nothing is lost or out of order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from takhin.v1 import takhin_pb2 as pb

from .harness import Server, wait_until

#: Seconds in which others must be served: some times what the watch needs to notice.
SOON = 0.5


@pytest.fixture
def hang(server: Server) -> Iterator[threading.Event]:
    """The next append hangs until the event is set."""
    go_on = threading.Event()
    append: Callable[..., None] = server.engine.append
    first = threading.Lock()

    def hanging(*arguments: Any) -> None:
        if first.acquire(blocking=False):
            assert go_on.wait(10)
        append(*arguments)

    server.engine.append = hanging  # type: ignore[method-assign]
    yield go_on
    go_on.set()


def served(server: Server, topic: str) -> float:
    """Seconds for one call of each kind."""
    began = time.monotonic()
    server.stub.HealthCheck(pb.HealthCheckRequest(), timeout=5)
    server.produce(topic, b"v")
    assert server.values(topic) == [b"v"]
    server.stub.DeleteTopic(pb.DeleteTopicRequest(name=topic))
    return time.monotonic() - began


@pytest.mark.parametrize("acks", [1, -1])
def test_a_single_call_that_hangs(server: Server, hang: threading.Event, direct_calls: bool, acks: int) -> None:
    server.topic("t")
    server.topic("u")
    stuck = server.stub.ProduceMessage.future(
        pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"slow"), required_acks=acks)
    )
    time.sleep(0.01)
    assert served(server, "u") < SOON
    assert not stuck.done()
    hang.set()
    assert stuck.result(10).offset == 0
    assert server.metric("takhin_serving_held_up_total") == direct_calls
    # And it goes on as before.
    server.topic("w")
    assert served(server, "w") < SOON
    wait_until(lambda: server.values("t") == [b"slow"])


def test_a_stream_that_hangs_keeps_its_order(server: Server, hang: threading.Event, direct_calls: bool) -> None:
    server.topic("t")
    server.topic("u")
    sent = [b"%d" % n for n in range(200)]
    requests = [pb.ProduceMessageRequest(topic="t", record=pb.Record(value=value), required_acks=1) for value in sent]
    answers = server.stub.ProduceMessageStream(iter(requests))
    time.sleep(0.01)
    assert served(server, "u") < SOON
    hang.set()
    assert [answer.offset for answer in answers] == list(range(200))
    wait_until(lambda: server.values("t") == sent)
    assert server.metric("takhin_serving_held_up_total") == direct_calls


def test_a_client_that_goes_away_from_an_append_that_hangs(server: Server, hang: threading.Event) -> None:
    server.topic("t")
    server.topic("u")
    requests = iter([pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"v"), required_acks=1)])
    stream = server.stub.ProduceMessageStream(requests)
    wait_until(lambda: len(server.grpc._produce_streams.streams) == 1)
    time.sleep(0.05)
    stream.cancel()
    assert served(server, "u") < SOON
    hang.set()
    wait_until(lambda: len(server.grpc._produce_streams.streams) == 0)
    wait_until(lambda: server.values("t") == [b"v"])


# The thread ends by SystemExit, which Python passes over in silence and pytest does not.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_server_stops_while_an_append_hangs(server: Server, hang: threading.Event) -> None:
    server.topic("t")
    stuck = server.stub.ProduceMessage.future(
        pb.ProduceMessageRequest(topic="t", record=pb.Record(value=b"v"), required_acks=1)
    )
    time.sleep(0.1)
    began = time.monotonic()
    assert not server.grpc.stop(0.2)  # something was left behind, and it says so
    assert time.monotonic() - began < 5
    hang.set()
    assert stuck.exception(10) is not None
    before = threading.active_count()
    time.sleep(0.2)
    assert threading.active_count() <= before
