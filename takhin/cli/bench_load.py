"""The loads of ``takhin bench``: threads that send prepared bytes and count what comes back."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc

from takhin.v1 import takhin_pb2 as pb

from ..client.errors import ClientError, code_name, from_rpc_error
from .bench_histogram import Histogram

_SERVICE: Final = "/takhin.v1.TakhinService/"
_LATEST: Final = -2
#: Seconds that a server has to say that a consumer is at its place; one that does not say so says it with a record.
_READY: Final = 1.0
#: Seconds between looks at whether the time is up, for whoever waits.
_LOOK: Final = 0.05

#: Behind it in a value of an end-to-end run comes the time of sending, ``time.perf_counter_ns``.
_TIME = struct.Struct("<q")


@dataclass(frozen=True)
class Shape:
    """What is sent."""

    topic: str
    partitions: int
    record_bytes: int
    #: Records in a request.
    batch: int
    acks: int
    streams: int
    #: Requests under way on each stream.
    in_flight: int
    #: Records a second, all streams together; 0: as fast as it goes.
    rate: float


class Clock:
    """When the load begins to count, and when it ends. ``time.perf_counter`` seconds."""

    def __init__(self, warmup: float, duration: float) -> None:
        self._warmup = warmup
        self._duration = duration
        self.stopped = False
        self.begin()

    def begin(self) -> None:
        """From now on; again for a load that had to wait before it could send."""
        self.begun = time.perf_counter()
        self.counts_from = self.begun + self._warmup
        self.ends = self.counts_from + self._duration

    def is_over(self, now: float) -> bool:
        return self.stopped or now >= self.ends


class Pace:
    """Spreads requests evenly over time. Shared by all streams."""

    def __init__(self, requests_per_second: float, clock: Clock) -> None:
        self._rate = requests_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._count = 0

    def next_due(self) -> float | None:
        """Waits for the next request's turn and gives its time, or None when the time is up. A request that is
        late keeps the time at which it was due: its wait is part of its latency."""
        now = time.perf_counter()
        if not self._rate:
            return None if self._clock.is_over(now) else now
        with self._lock:
            due = self._clock.begun + self._count / self._rate
            self._count += 1
        while now < due and not self._clock.is_over(now):
            time.sleep(min(due - now, _LOOK))
            now = time.perf_counter()
        return None if self._clock.is_over(now) else due


class Load:
    """Threads, their failure, and figures that may be read while they run."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        #: Since ``clock.counts_from``.
        self.records = 0
        self.bytes = 0
        self.failure: ClientError | None = None
        #: When the last counted answer came.
        self.last = 0.0
        self._lock = threading.Lock()
        self._latencies: list[Histogram] = []
        self._threads: list[threading.Thread] = []
        self._calls: list[Any] = []

    def start(self, run: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=self._guarded, args=(run, *arguments), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guarded(self, run: Any, *arguments: Any) -> None:
        try:
            run(*arguments)
        except grpc.RpcError as error:
            if not (self.clock.stopped and isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.CANCELLED):
                self.fail(from_rpc_error(error))
        except ClientError as error:
            self.fail(error)

    def fail(self, error: ClientError) -> None:
        with self._lock:
            self.failure = self.failure or error
        self.clock.stopped = True

    def call(self, call: Any) -> Any:
        """Remembers a call, so that it can be cancelled."""
        self._calls.append(call)
        return call

    def cancel(self) -> None:
        self.clock.stopped = True
        for call in self._calls:
            call.cancel()

    @property
    def is_running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def join(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))
        return not self.is_running

    def histogram(self) -> Histogram:
        """One thread's own; all of them are merged by ``latencies``."""
        with self._lock:
            self._latencies.append(Histogram())
            return self._latencies[-1]

    def latencies(self) -> Histogram:
        """Once the threads have ended."""
        merged = Histogram()
        for histogram in self._latencies:
            merged.merge(histogram)
        return merged

    def count(self, now: float, records: int, size: int) -> bool:
        """Whether it counted: not while warming up."""
        if now < self.clock.counts_from:
            return False
        with self._lock:
            self.records += records
            self.bytes += size
            self.last = max(self.last, now)
        return True


def prepared_batch(shape: Shape, partition: int, mark: bytes = b"") -> bytes:
    """The bytes of a request. ``mark`` begins each value, with room for a time behind it."""
    start = mark + bytes(_TIME.size) if mark else b""
    value = start + os.urandom(max(shape.record_bytes - len(start), 0))
    return pb.ProduceBatchRequest(
        topic=shape.topic,
        partition=partition,
        records=[pb.Record(value=value)] * shape.batch,
        required_acks=shape.acks,
    ).SerializeToString()


class _ProduceStream:
    """One stream: its requests come from a generator that gRPC runs, its answers are read by our thread."""

    def __init__(self, load: Load, channel: grpc.Channel, shape: Shape, pace: Pace, first: int, mark: bytes) -> None:
        self._load = load
        self._shape = shape
        self._pace = pace
        self._mark = mark
        self._channel = channel
        self._room = threading.Semaphore(shape.in_flight)
        self._sent: deque[float] = deque()
        #: The partitions in turn; each stream begins with another.
        order = [(first + n) % shape.partitions for n in range(shape.partitions)]
        self._requests = [prepared_batch(shape, partition, mark) for partition in order]
        self._marks = [_places(request, mark) for request in self._requests]

    def _generate(self) -> Iterator[bytes]:
        n = 0
        while True:
            while not self._room.acquire(timeout=_LOOK):
                if self._load.clock.stopped:
                    return
            due = self._pace.next_due()
            if due is None:
                return
            self._sent.append(due)
            data = self._requests[n % len(self._requests)]
            yield self._stamped(data, self._marks[n % len(self._requests)]) if self._mark else data
            n += 1

    @staticmethod
    def _stamped(data: bytes, places: list[int]) -> bytes:
        stamped = bytearray(data)
        now = time.perf_counter_ns()
        for place in places:
            _TIME.pack_into(stamped, place, now)
        return bytes(stamped)

    def run(self, latencies: Histogram | None) -> None:
        shape, load = self._shape, self._load
        method = self._channel.stream_stream(_SERVICE + "ProduceBatchStream", bytes, bytes)
        for answer in load.call(method(self._generate())):
            now = time.perf_counter()
            sent = self._sent.popleft()
            self._room.release()
            parsed = pb.ProduceBatchResponse.FromString(answer)
            if parsed.error:
                raise ClientError(parsed.error, code=code_name(parsed.error_code))
            if latencies is not None and load.count(now, shape.batch, shape.batch * shape.record_bytes):
                latencies.add(now - sent)


def _places(request: bytes, mark: bytes) -> list[int]:
    """Where the times go."""
    places: list[int] = []
    at = request.find(mark) if mark else -1
    while at >= 0:
        places.append(at + len(mark))
        at = request.find(mark, at + len(mark))
    return places


def produce(channel: grpc.Channel, shape: Shape, clock: Clock) -> Load:
    """Latency is from the send (at a rate: from when the request was due) to the answer."""
    load = Load(clock)
    pace = Pace(shape.rate / shape.batch, clock)
    for n in range(shape.streams):
        stream = _ProduceStream(load, channel, shape, pace, n, b"")
        load.start(stream.run, load.histogram())
    return load


def consume(channel: grpc.Channel, topic: str, partitions: int, max_bytes: int, clock: Clock) -> Load:
    """Every partition from its beginning to its end. Latency is between one response and the next."""
    load = Load(clock)

    def run(partition: int, latencies: Histogram) -> None:
        request = pb.ConsumeMessagesRequest(
            topic=topic, partition=partition, offset=-1, max_bytes=max_bytes, until_end=True
        )
        method = channel.unary_stream(_SERVICE + "ConsumeMessages", bytes, bytes)
        before = time.perf_counter()
        call = load.call(method(request.SerializeToString()))
        for answer in call:
            records = pb.ConsumeMessagesResponse.FromString(answer).records
            now = time.perf_counter()
            if load.count(now, len(records), sum(len(record.value) + len(record.key) for record in records)):
                latencies.add(now - before)
            before = now
            if clock.is_over(now):
                call.cancel()
                return

    for partition in range(partitions):
        load.start(run, partition, load.histogram())
    return load


def end_to_end(channel: grpc.Channel, shape: Shape, clock: Clock) -> Load:
    """Latency is from just before a record is sent until a consumer at the end of the log has it in hand."""
    load = Load(clock)
    mark = b"takhin-bench:" + os.urandom(8)
    ready = threading.Semaphore(0)

    def follow(partition: int, latencies: Histogram) -> None:
        request = pb.ConsumeMessagesRequest(topic=shape.topic, partition=partition, offset=_LATEST)
        call = load.call(channel.unary_stream(_SERVICE + "ConsumeMessages", bytes, bytes)(request.SerializeToString()))
        try:
            call.initial_metadata()  # from here on, nothing is missed
        finally:
            ready.release()
        for answer in call:
            records = pb.ConsumeMessagesResponse.FromString(answer).records
            now_ns = time.perf_counter_ns()
            for record in records:
                if record.value.startswith(mark):
                    (sent_ns,) = _TIME.unpack_from(record.value, len(mark))
                    if load.count(now_ns / 1e9, 1, len(record.value)):
                        latencies.add((now_ns - sent_ns) / 1e9)

    for partition in range(shape.partitions):
        load.start(follow, partition, load.histogram())
    until = time.monotonic() + _READY
    for _ in range(shape.partitions):
        ready.acquire(timeout=max(until - time.monotonic(), 0))
    clock.begin()
    pace = Pace(shape.rate / shape.batch, clock)
    for n in range(shape.streams):
        load.start(_ProduceStream(load, channel, shape, pace, n, mark).run, None)
    return load
