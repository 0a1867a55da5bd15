"""Reading one partition, across reconnections."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final

import grpc

from takhin.v1 import takhin_pb2 as pb

from .errors import ClientError, from_rpc_error
from .models import ConsumedRecord

_FIRST_BACKOFF: Final = 0.1
_LAST_BACKOFF: Final = 5.0


class Consumer:
    """An iterator over the records of one partition, in offset order, each once.

    When the connection breaks, or the server ends it by age or to restart, it connects again and
    goes on at the next offset; every other failure is raised as ``ClientError``. Made by
    ``Client.consume``, which explains the parameters. Used by one thread; ``close`` may be called
    from any, and ends the iteration.
    """

    def __init__(
        self,
        open_stream: Callable[[pb.ConsumeMessagesRequest], Any],
        request: pb.ConsumeMessagesRequest,
        *,
        end_offset: int | None = None,
        reconnect_timeout: float | None = None,
    ) -> None:
        self.topic: str = request.topic
        self.partition: int = request.partition
        #: The offset after the last record given out, or where reading starts.
        #: Negative while a symbolic start (earliest) has not been resolved.
        self.next_offset: int = request.offset
        #: As the server told last; -1 before it did.
        self.high_watermark = -1
        self._open_stream = open_stream
        self._request = request
        self._end_offset = end_offset
        self._reconnect_timeout = reconnect_timeout
        self._remaining: int | None = request.max_records or None
        self._position_known = False
        self._closed = threading.Event()
        self._call: Any = None
        self._broken_since: float | None = None
        self._backoff = _FIRST_BACKOFF

    def __iter__(self) -> Iterator[ConsumedRecord]:
        for records in self.chunks():
            for record in records:
                self.next_offset = record.offset + 1
                yield record

    def chunks(self) -> Iterator[list[ConsumedRecord]]:
        """The same records, as they arrive: lists, never empty. ``next_offset`` is past the whole list."""
        while not self._closed.is_set() and not self._at_end():
            self._call = self._open_stream(self._next_request())
            if self._closed.is_set():  # closed while the call was opened
                self._call.cancel()
                return
            try:
                for response in self._call:
                    self._broken_since, self._backoff = None, _FIRST_BACKOFF
                    records = self._take(response)
                    if records:
                        yield records
                    if self._at_end():
                        return
                return  # the server ended it: until_end or max_records is reached
            except grpc.RpcError as error:
                if self._closed.is_set():
                    return
                failure = from_rpc_error(error)
                if not failure.transport_broken:
                    raise failure from None
                self._wait_before_reconnect(failure)
            finally:
                self._call.cancel()

    def close(self) -> None:
        """End the iteration, also while it waits. Idempotent."""
        self._closed.set()
        call = self._call
        if call is not None:
            call.cancel()

    def __enter__(self) -> Consumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _at_end(self) -> bool:
        if not self._position_known:  # the server judges the start, and a group may start elsewhere
            return False
        if self._remaining is not None and self._remaining <= 0:
            return True
        return self._end_offset is not None and self.next_offset >= self._end_offset

    def _next_request(self) -> pb.ConsumeMessagesRequest:
        request = pb.ConsumeMessagesRequest()
        request.CopyFrom(self._request)
        if self._remaining is not None:
            request.max_records = self._remaining
        if self._position_known:
            # The group's committed offset may lie behind what was read; what comes twice is dropped in _take.
            request.offset = self.next_offset
            request.start_timestamp = 0
        return request

    def _take(self, response: pb.ConsumeMessagesResponse) -> list[ConsumedRecord]:
        if response.error:
            raise ClientError(response.error)
        self.high_watermark = response.high_watermark
        topic, partition = self.topic, self.partition
        low = self.next_offset if self._position_known else -1
        records = [
            ConsumedRecord(
                topic,
                partition,
                record.offset,
                record.timestamp,
                record.key if record.HasField("key") else None,
                record.value if record.HasField("value") else None,
                tuple((header.key, header.value) for header in record.headers) if record.headers else (),
            )
            for record in response.records
            if record.offset >= low
        ]
        if not records:
            return records
        passed = records[-1].offset + 1
        end = self._end_offset
        if end is not None and passed > end:
            records = [record for record in records if record.offset < end]
        if self._remaining is not None:
            records = records[: self._remaining]
            self._remaining -= len(records)
        self.next_offset = records[-1].offset + 1 if records else passed
        if end is not None and passed > end:
            self.next_offset = max(self.next_offset, end)
        self._position_known = True
        return records

    def _wait_before_reconnect(self, failure: ClientError) -> None:
        now = time.monotonic()
        if self._broken_since is None:
            self._broken_since = now
        elif self._reconnect_timeout is not None and now - self._broken_since >= self._reconnect_timeout:
            raise failure from None
        # Spread out, so that a thousand consumers do not come back in the same millisecond.
        self._closed.wait(max(failure.retry_delay, self._backoff) * random.uniform(0.5, 1.0))
        self._backoff = min(self._backoff * 2, _LAST_BACKOFF)
