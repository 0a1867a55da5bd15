"""Producers that keep many requests under way on one stream."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import grpc

from takhin.v1 import takhin_pb2 as pb

from .victim import CODE_NAMES, DEFINITE
from .worker import Run, Sender

#: Requests under way at most.
WINDOW = 16
#: Requests of one stream at most; then it is closed, and another one opened.
REQUESTS = 150


class StreamProducer(Sender):
    """ProduceMessageStream or ProduceBatchStream; a value is sent once, whatever becomes of it."""

    def __init__(self, run: Run, name: str, *, batch: bool, acks: tuple[int, ...], pause: float) -> None:
        super().__init__(run, name)
        self._batch, self._acks, self._pause = batch, acks, pause
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._under_way: deque[int] = deque()
        self._streams = 0
        self._open = 0

    def step(self) -> None:
        self._streams += 1
        with self._lock:
            self._open = self._streams
        stub = self.link.stub
        method = stub.ProduceBatchStream if self._batch else stub.ProduceMessageStream
        try:
            for answer in method(self._requests(self._streams), timeout=30, wait_for_ready=True):
                self._take(answer)
        except grpc.RpcError:
            self.pause(0.02)
        with self._room:
            self._open = 0
            left, self._under_way = self._under_way, deque()
            self._room.notify_all()
        for op in left:
            self.history.info(op, "BROKEN")

    def _requests(self, stream: int) -> Iterator[Any]:
        """Runs on a thread of gRPC, which may be behind: by then the next stream may be open."""
        for _ in range(self.random.randrange(10, REQUESTS)):
            topic, partition = self.place()
            acks = self.random.choice(self._acks)
            with self._room:
                while len(self._under_way) >= WINDOW and self._open == stream and not self.stopping:
                    self._room.wait(0.5)
                if self._open != stream or self.stopping:
                    return
                identities, records = self.records(self.random.randrange(1, 12) if self._batch else 1)
                place = {"topic": topic, "partition": partition}
                op = self.history.invoke(
                    self.name, "produce", **place, acks=acks, values=identities, stream=f"{self.name}.{stream}"
                )
                self._under_way.append(op)
            if self._batch:
                yield pb.ProduceBatchRequest(**place, records=records, required_acks=acks, correlation_id=op)
            else:
                yield pb.ProduceMessageRequest(**place, record=records[0], required_acks=acks)
            self.pause(self._pause)

    def _take(self, answer: Any) -> None:
        with self._room:
            op = self._under_way.popleft()
            self._room.notify()
        if self._batch and answer.correlation_id != op:
            self.history.note("unexpected", text=f"the answer to {answer.correlation_id} came in the place of {op}'s")
        if answer.error_code:
            status = CODE_NAMES[answer.error_code]
            (self.history.fail if status in DEFINITE else self.history.info)(op, status, answer.error)
        else:
            self.answer(op, answer.partition, answer.base_offset if self._batch else answer.offset)


class IdempotentStreamProducer(Sender):
    """ProduceBatchStream with a producer id: after a break, everything unanswered is sent again, in order."""

    def __init__(self, run: Run, name: str, partition: int, pause: float) -> None:
        super().__init__(run, name)
        self._partition, self._pause = partition, pause
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._producer: Any = None
        self._sequence_of_next = 0
        #: Sent at least once, and not answered: (operation, request), oldest first.
        self._unanswered: deque[tuple[int, Any]] = deque()
        self._streams = 0
        self._open = 0

    def step(self) -> None:
        if self._producer is None and not self._begin():
            return
        self._streams += 1
        with self._lock:
            self._open = self._streams
        call = self.link.stub.ProduceBatchStream(self._requests(self._streams), timeout=30, wait_for_ready=True)
        first = True
        try:
            for answer in call:
                if not self._take(answer, first):
                    call.cancel()
                    break
                first = False
        except grpc.RpcError:
            self.pause(0.02)
        with self._room:
            self._open = 0
            self._room.notify_all()

    def _begin(self) -> bool:
        try:
            self._producer = self.link.stub.InitProducerId(pb.InitProducerIdRequest(), timeout=5, wait_for_ready=True)
        except grpc.RpcError:
            return False
        self._sequence_of_next = 0
        self._unanswered.clear()  # their outcome stays unknown
        return True

    def _requests(self, stream: int) -> Iterator[Any]:
        with self._lock:
            if self._open != stream:
                return
            again = list(self._unanswered)
        for _, request in again:
            yield request
        for _ in range(self.random.randrange(10, REQUESTS)):
            with self._room:
                while len(self._unanswered) >= WINDOW and self._open == stream and not self.stopping:
                    self._room.wait(0.5)
                if self._open != stream or self.stopping:
                    return
                identities, records = self.records(self.random.randrange(1, 12))
                place = {"topic": self.shared.keep.name, "partition": self._partition}
                op = self.history.invoke(
                    self.name, "produce", **place, acks=-1, values=identities, stream=self.name, idempotent=True
                )
                request = pb.ProduceBatchRequest(
                    **place,
                    records=records,
                    required_acks=-1,
                    correlation_id=op,
                    producer_id=self._producer.producer_id,
                    producer_epoch=self._producer.producer_epoch,
                    base_sequence=self._sequence_of_next,
                )
                self._sequence_of_next += len(identities)
                self._unanswered.append((op, request))
            yield request
            self.pause(self._pause)

    def _take(self, answer: Any, first: bool) -> bool:
        """Whether to go on with this stream."""
        op = self._unanswered[0][0]
        if answer.correlation_id != op:
            self.history.note("unexpected", text=f"the answer to {answer.correlation_id} came in the place of {op}'s")
        if answer.error_code:
            status = CODE_NAMES[answer.error_code]
            # Behind a failure all others fail too. But what precedes the first was answered, so it comes next.
            if first and status in DEFINITE:
                forgotten = status == "FAILED_PRECONDITION"
                self.history.fail(op, status, "OUT_OF_ORDER_SEQUENCE" if forgotten else answer.error)
                self._producer = None
            return False
        with self._room:
            self._unanswered.popleft()
            self._room.notify()
        self.answer(op, answer.partition, answer.base_offset)
        return True
