"""Sending many records of one topic: batched, pipelined, with bounded memory."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import grpc

from takhin.v1 import takhin_pb2 as pb

from .batch import RECORD_OVERHEAD_BYTES, Batch, ProducerOptions, record_bytes
from .errors import ClientError, code_name, from_rpc_error
from .models import Delivery
from .partitioner import partition_for_key

if TYPE_CHECKING:
    from .client import Client

log = logging.getLogger(__name__)

_DEFAULT_MAX_REQUEST_BYTES: Final = 10 * 1024 * 1024
#: Room in a request for what is not records.
_REQUEST_OVERHEAD_BYTES: Final = 1024
#: Of a record batch in Kafka's format, which the topic's limit counts.
_BATCH_HEADER_BYTES: Final = 61
#: An idempotent producer sends these again as they are.
_RETRIED_CODES: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})
_SEQUENCE_MASK: Final = 0x7FFFFFFF


class Producer:
    """Gathers records in one batch for each partition and sends the batches down one stream.

    ``send`` gives no outcome: it returns when the record is in a batch, and waits when too much is
    unacknowledged. Outcomes go to ``on_delivery``, once for each batch, from a thread of the
    producer, and failures are raised by ``flush`` and ``close``. Records of one partition keep
    their order. A record with a key goes to the partition that Kafka's default partitioner gives,
    one without to a partition that changes from batch to batch.

    When the connection is lost, an idempotent producer connects again and sends again what was not
    answered. One that is not stops: nobody knows whether those records are in the log, and sending
    them again may write them twice.

    Locking: ``_lock`` (of ``_changed``) guards everything below it; no callback and no call is made
    while it is held. ``send``, ``flush`` and ``close`` may be called from any thread.
    """

    def __init__(
        self,
        client: Client,
        stub: Any,
        topic: str,
        options: ProducerOptions,
        on_delivery: Callable[[Delivery], None] | None = None,
    ) -> None:
        self.topic = topic
        self._client = client
        self._stub = stub
        self._options = options
        self._on_delivery = on_delivery
        self._partitions = len(client.describe_topic(topic).partitions)
        limit = options.max_request_bytes
        if limit <= 0:
            limit = client.server_info().limits.get("max_message_size", _DEFAULT_MAX_REQUEST_BYTES)
        self._max_request_bytes = max(limit - _REQUEST_OVERHEAD_BYTES, 1)
        self._max_batch_bytes = min(options.batch_bytes, self._max_request_bytes, self._topic_batch_bytes())
        self._producer_id, self._producer_epoch = client.init_producer_id() if options.idempotent else (0, 0)

        self._changed = threading.Condition(threading.Lock())
        #: Records and bytes that the server acknowledged, and that failed.
        self.acknowledged_records = 0
        self.acknowledged_bytes = 0
        self.failed_records = 0
        self._open: dict[int, Batch] = {}
        self._ready: deque[Batch] = deque()
        self._in_flight: deque[Batch] = deque()
        self._open_bytes = 0
        self._unacknowledged_batches = 0
        self._unacknowledged_bytes = 0
        self._next_sequence: dict[int, int] = {}
        self._spread_partition = random.randrange(self._partitions)
        self._next_correlation_id = 1
        self._error: ClientError | None = None  # the first since the last flush
        self._fatal: ClientError | None = None
        self._closing = False
        self._call: Any = None
        self._stream = 0  # counts the streams; the iterator of an older one ends
        self._stream_ends_at = 0.0
        self._thread = threading.Thread(target=self._run, name=f"takhin-producer-{topic}", daemon=True)
        self._thread.start()

    def _topic_batch_bytes(self) -> int:
        """How large the topic lets a batch be; a single record that is larger is left to the server to judge."""
        for config in self._client.topic_configs(self.topic):
            if config.name == "max.message.bytes":
                return max(int(config.value) - _BATCH_HEADER_BYTES, 1)
        return self._options.batch_bytes

    # -- the caller's side --------------------------------------------------------------------

    def send(
        self,
        value: bytes | None,
        key: bytes | None = None,
        *,
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp: int = 0,
        partition: int = -1,
    ) -> None:
        """Put a record in a batch. ``timestamp`` is in ms, 0 meaning the server's clock; ``partition``
        -1 chooses one. Raises ``ClientError`` for a record that no request can hold, and when the
        producer has stopped."""
        size = record_bytes(key, value, headers)
        encoded = size + RECORD_OVERHEAD_BYTES
        if encoded > self._max_request_bytes:
            raise ClientError(
                f"a record of {size} bytes does not fit in a request of {self._max_request_bytes} bytes",
                code="RESOURCE_EXHAUSTED",
                reason="RECORD_TOO_LARGE",
                retriable=False,
            )
        options = self._options
        with self._changed:
            self._wait_for_room()
            if partition < 0:
                partition = self._spread_partition if key is None else partition_for_key(key, self._partitions)
            batch = self._open.get(partition)
            if batch is not None and batch.encoded_bytes + encoded > self._max_batch_bytes:
                self._seal(batch)
                batch = None
            if batch is None:
                batch = self._open[partition] = Batch(self.topic, partition, options.acks)
                if len(self._open) == 1:
                    self._changed.notify_all()  # the sender starts to count the linger
            batch.add(key, value, headers, timestamp, size)
            self._open_bytes += encoded
            if batch.records >= options.batch_records or batch.encoded_bytes >= self._max_batch_bytes:
                self._seal(batch)

    def flush(self, timeout: float | None = None) -> None:
        """Send everything and wait for the answers, ``timeout`` seconds at most.

        Raises the first ``ClientError`` since the last flush; ``failed_records`` tells how many failed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            self._seal_all()
            while self._unacknowledged_batches:
                if deadline is not None and time.monotonic() >= deadline:
                    raise ClientError("records are not acknowledged yet", code="DEADLINE_EXCEEDED", retriable=True)
                self._wait()
            error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self, timeout: float | None = None) -> None:
        """``flush``, then end the stream. Idempotent."""
        try:
            self.flush(timeout)
        finally:
            self._stop(ClientError("the producer was closed", code="CANCELLED"))

    def abort(self) -> None:
        """End at once: what is not acknowledged fails. Idempotent."""
        self._stop(ClientError("the producer was aborted", code="CANCELLED"))

    @property
    def unacknowledged_records(self) -> int:
        """Records that were sent or wait to be, and have no outcome yet."""
        with self._changed:
            return sum(batch.records for batch in (*self._in_flight, *self._ready, *self._open.values()))

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _stop(self, error: ClientError) -> None:
        with self._changed:
            self._closing = True
            pending = bool(self._unacknowledged_batches or self._open)
            call = self._call
            self._changed.notify_all()
        if pending:
            self._fail_all(error)
            if call is not None:
                call.cancel()
        self._thread.join(timeout=10)
        if self._thread.is_alive() and call is not None:  # a server that does not end its stream
            call.cancel()
            self._thread.join()

    # The lock is held in these.

    def _wait_for_room(self) -> None:
        bound = self._options.max_unacknowledged_bytes
        while True:
            if self._fatal is not None:
                raise self._fatal
            if self._closing:
                raise ClientError("the producer is closed", code="FAILED_PRECONDITION")
            if self._unacknowledged_bytes + self._open_bytes < bound:
                return
            self._seal_all()  # many partitions with a little each are much, too
            self._wait()

    def _wait(self) -> None:
        """Wait for a change, a second at most, and end the stream of a server that does not answer."""
        self._changed.wait(1.0)
        oldest = self._in_flight[0] if self._in_flight else None
        if oldest is not None and self._call is not None and self._overdue(oldest):
            self._call.cancel()

    def _overdue(self, batch: Batch) -> bool:
        return time.monotonic() - batch.created > self._options.delivery_timeout

    def _seal(self, batch: Batch) -> None:
        del self._open[batch.partition]
        self._open_bytes -= batch.encoded_bytes
        if batch.partition == self._spread_partition:
            self._spread_partition = (self._spread_partition + 1) % self._partitions
        request = batch.request
        request.correlation_id = self._next_correlation_id
        self._next_correlation_id += 1
        if self._options.idempotent:
            sequence = self._next_sequence.get(batch.partition, 0)
            request.producer_id = self._producer_id
            request.producer_epoch = self._producer_epoch
            request.base_sequence = sequence
            self._next_sequence[batch.partition] = (sequence + batch.records) & _SEQUENCE_MASK
        self._ready.append(batch)
        self._unacknowledged_batches += 1
        self._unacknowledged_bytes += batch.encoded_bytes
        self._changed.notify_all()

    def _seal_all(self) -> None:
        for batch in list(self._open.values()):
            self._seal(batch)

    # -- the sender's side --------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._run_streams()
        except Exception as error:  # a callback that raised, a client that was closed: nobody may wait for ever
            log.exception("producer stopped", extra={"fields": {"topic": self.topic}})
            self._fail_all(ClientError(f"the producer stopped: {error}", code="INTERNAL"), report=False)

    def _run_streams(self) -> None:
        """One stream after another, until the producer is closed or has failed for good."""
        backoff = 0.1
        while self._wait_for_work():
            failure = self._run_stream()
            if failure is None:
                backoff = 0.1
                continue
            if not self._recover(failure):
                return
            with self._changed:
                self._changed.wait(max(failure.retry_delay, backoff) * random.uniform(0.5, 1.0))
            backoff = min(backoff * 2, 5.0)

    def _wait_for_work(self) -> bool:
        """False when there is nothing more to do."""
        with self._changed:
            while not (self._ready or self._open):
                if self._closing or self._fatal is not None:
                    return False
                self._changed.wait()
            self._stream_ends_at = time.monotonic() + self._options.rotate_after
            return self._fatal is None

    def _run_stream(self) -> ClientError | None:
        """Send and take answers on one stream; None when it ended well, all answered."""
        call = self._stub.ProduceBatchStream(self._requests(self._stream))
        with self._changed:
            self._call = call
        try:
            for response in call:
                failure = self._take(response)
                if failure is not None:
                    return failure
        except grpc.RpcError as error:
            return from_rpc_error(error)
        else:
            with self._changed:
                if self._in_flight:
                    return ClientError("the server ended the stream without an answer", code="UNAVAILABLE")
            self._refresh_partitions()
            return None
        finally:
            with self._changed:
                self._call = None
                self._stream += 1
                self._changed.notify_all()
            call.cancel()

    def _requests(self, stream: int) -> Iterator[pb.ProduceBatchRequest]:
        """Feeds a stream, from a thread of gRPC; ends it when it is old or there is no more."""
        while True:
            with self._changed:
                batch = self._next_batch(stream)
                if batch is None:
                    return
                self._in_flight.append(batch)
            yield batch.request

    def _next_batch(self, stream: int) -> Batch | None:
        while True:
            now = time.monotonic()
            if stream != self._stream or self._fatal is not None or now >= self._stream_ends_at:
                return None
            patience = self._stream_ends_at - now
            if len(self._in_flight) >= self._options.max_in_flight_batches:
                pass  # what is open goes on being filled until there is an answer
            elif self._ready:
                return self._ready.popleft()
            elif self._open:
                oldest = next(iter(self._open.values()))  # batches are opened in the order of their age
                patience = min(patience, oldest.created + self._options.linger - now)
                if patience <= 0:
                    self._seal(oldest)
                    continue
            elif self._closing:
                return None
            self._changed.wait(patience)

    def _take(self, response: pb.ProduceBatchResponse) -> ClientError | None:
        """Settle the oldest batch in flight; a failure to recover from, or None."""
        with self._changed:
            batch = self._in_flight[0] if self._in_flight else None
        if batch is None or response.correlation_id != batch.request.correlation_id:
            return ClientError("the server answered a request that was not made", code="INTERNAL")
        if not response.error_code and not response.error:
            self._settle(batch, response, None)
            return None
        failure = ClientError(response.error, code=code_name(response.error_code))
        if not self._options.idempotent:
            self._settle(batch, None, failure)
            return None
        return failure

    def _recover(self, failure: ClientError) -> bool:
        """After a broken stream: True when everything unanswered is queued to be sent again."""
        if not self._options.idempotent:
            if failure.transport_broken:
                failure = ClientError(
                    f"{failure.message}; records without an answer may or may not have been written",
                    code=failure.code,
                    reason=failure.reason,
                    metadata=failure.metadata,
                )
            self._fail_all(failure)
            return False
        with self._changed:
            oldest = next(iter((*self._in_flight, *self._ready)), None)
            in_flight = bool(self._in_flight)
            overdue = oldest is not None and self._overdue(oldest)
        if overdue and failure.code == "CANCELLED":
            failure = ClientError("no answer within the delivery timeout", code="DEADLINE_EXCEEDED", retriable=True)
        if not overdue and failure.code == "RESOURCE_EXHAUSTED" and oldest is not None and in_flight:
            probe = self._probe(oldest)
            if probe is None:
                failure = ClientError("written by itself", code="UNAVAILABLE")
            else:
                failure = probe
        if overdue or not (failure.retriable or failure.code in _RETRIED_CODES or failure.transport_broken):
            self._fail_all(failure)
            return False
        with self._changed:
            if self._fatal is not None:
                return False
            self._ready.extendleft(reversed(self._in_flight))
            self._in_flight.clear()
        return True

    def _probe(self, batch: Batch) -> ClientError | None:
        """Send one batch by itself, because answers in a stream do not say whether waiting helps."""
        try:
            response = self._stub.ProduceBatch(batch.request, timeout=self._client.timeout)
        except grpc.RpcError as error:
            return from_rpc_error(error)
        self._settle(batch, response, None)
        return None

    def _refresh_partitions(self) -> None:
        """The topic may have grown while the last stream was open."""
        try:
            partitions = len(self._client.describe_topic(self.topic).partitions)
        except ClientError:
            return  # the next stream tells what is wrong
        with self._changed:
            self._partitions = partitions

    def _settle(self, batch: Batch, response: pb.ProduceBatchResponse | None, error: ClientError | None) -> None:
        with self._changed:
            if not self._in_flight or self._in_flight[0] is not batch:
                return  # it failed in the meantime, with all others
            self._in_flight.popleft()
            self._count(batch, error)
            self._changed.notify_all()
        self._report(batch, response, error)

    def _fail_all(self, error: ClientError, *, report: bool = True) -> None:
        with self._changed:
            batches = [*self._in_flight, *self._ready]
            for batch in batches:
                self._count(batch, error)
            unsealed = list(self._open.values())
            for batch in unsealed:
                self.failed_records += batch.records
                self._error = self._error or error
            self._in_flight.clear()
            self._ready.clear()
            self._open.clear()
            self._open_bytes = 0
            self._fatal = self._fatal or error
            self._changed.notify_all()
        for batch in (*batches, *unsealed) if report else ():
            self._report(batch, None, error)

    def _count(self, batch: Batch, error: ClientError | None) -> None:
        """The lock is held."""
        self._unacknowledged_batches -= 1
        self._unacknowledged_bytes -= batch.encoded_bytes
        if error is None:
            self.acknowledged_records += batch.records
            self.acknowledged_bytes += batch.size_bytes
        else:
            self.failed_records += batch.records
            self._error = self._error or error

    def _report(self, batch: Batch, response: pb.ProduceBatchResponse | None, error: ClientError | None) -> None:
        if self._on_delivery is None:
            return
        base, last = (response.base_offset, response.last_offset) if response is not None else (-1, -1)
        self._on_delivery(Delivery(self.topic, batch.partition, batch.records, batch.size_bytes, base, last, error))
