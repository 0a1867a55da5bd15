"""One call of a client: where its messages come from and where they go to.

Handlers see nothing else of gRPC but the context. There are two ways to move the messages: by what
grpcio offers to everybody (here), and by completions of our own (``direct``), which is faster.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import grpc

from ..observe.metrics import MethodMetrics
from .instrument import CallCount

#: Takes the one request of a call, or None when none came. Quick; any thread, the serving thread too.
Deliver = Callable[[bytes | None], None]


#: Takes a request at once, on the serving thread, if that is no matter of waiting: whether it has. Must not raise.
TakeHere = Callable[[bytes], bool]
#: Goes on to send. True: on the serving thread, where there is no waiting. Must not raise.
Resume = Callable[[bool], None]


class Call(ABC):
    """Either ``receive`` is called, once, or ``take`` by one thread. What sends is called by one thread at a time:
    with grpcio's own, two at once kill the server."""

    def __init__(self, context: grpc.ServicerContext, metrics: MethodMetrics) -> None:
        self.context = context
        self._metrics = metrics
        self._count = CallCount(metrics, context)
        self._kept = False
        #: No other call was waiting for its request when this one's came.
        self.alone = False

    def count_cancelled(self) -> None:
        """For a call whose end nobody may see: it is counted when gRPC is through with it."""
        self.context.add_callback(self._count.end_cancelled)

    def abandon(self) -> None:
        """The client has gone before there was an answer: in place of one."""
        self._count.end_cancelled()
        self._over()

    def keep(self) -> None:
        """From within its work: the call goes on after that, and holds its place in the pool until its end."""
        self._kept = True

    @abstractmethod
    def _over(self) -> None:
        """The end of a call that may have been kept."""

    @abstractmethod
    def spawn(self, work: Callable[[], None]) -> None:
        """Do the work of the call in a thread of its pool; once a call. ``work`` must not raise."""

    def run(self, work: Callable[[], None]) -> None:
        """As ``spawn``, for work that is short: where the request has arrived, if that may be."""
        self.spawn(work)

    @abstractmethod
    def receive(self, deliver: Deliver) -> None:
        """Have the one request delivered."""

    def take_here(self, take: TakeHere) -> None:  # noqa: B027 (not every way of moving messages has such a place)
        """Offer requests to this as they come, while a thread waits in ``take``; those that it does not take come
        there, in their order. Once, before the first ``take``."""

    @abstractmethod
    def take(self) -> Sequence[bytes]:
        """The requests that came since the last time, waiting for one; none at the end. May raise ``grpc.RpcError``."""

    @abstractmethod
    def send(self, message: bytes | None, taken: Callable[[], None] | None = None, /) -> None:
        """A message, or None for the end. May block while the peer does not read, but not where ``wait_to_send`` is
        asked first. ``taken`` is called once, when gRPC holds the message no more; quick, any thread, the serving
        thread too."""

    def wait_to_send(self, resume: Resume) -> bool:
        """Whether there is enough on the way to the peer; then ``resume`` is called once when it has read."""
        return False

    def send_all(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            self.send(message)

    @abstractmethod
    def answer(self, message: bytes) -> None:
        """The one response, and the end."""


class PublicCall(Call):
    """By grpcio's public interface: its handler is running in a thread of the pool."""

    def __init__(
        self,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
        send: Callable[[bytes | None], None],
        metrics: MethodMetrics,
    ) -> None:
        super().__init__(context, metrics)
        self._requests = requests
        self._send = send
        self._ended = threading.Event()

    def spawn(self, work: Callable[[], None]) -> None:
        work()
        if self._kept:  # its place in the pool is this thread
            self._ended.wait()

    def _over(self) -> None:
        self._ended.set()

    def receive(self, deliver: Deliver) -> None:
        try:
            data = next(self._requests, None)
        except grpc.RpcError:  # the client has gone
            data = None
        if data is not None:
            self._metrics.received.inc()
        deliver(data)

    def take(self) -> Sequence[bytes]:
        data = next(self._requests, None)
        if data is None:
            return ()
        self._metrics.received.inc()
        return (data,)

    def send(self, message: bytes | None, taken: Callable[[], None] | None = None, /) -> None:
        if message is None:
            self._count.end()
        else:
            self._metrics.sent.inc()
        try:
            self._send(message)
        finally:
            if taken is not None:
                taken()
            if message is None:
                self._over()

    def answer(self, message: bytes) -> None:
        self.send(message)
        self.send(None)
