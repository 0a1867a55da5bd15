"""ConsumeMessages: a reader that follows one partition, parked without a thread while there is nothing."""

from __future__ import annotations

import heapq
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import grpc

from .. import errors
from .._fastlog import Batches
from .._wire import ConsumeResponse, decode_consume, encode_consume_response
from ..engine.base import LATEST, Engine, GroupMember, Reader
from .call import Call
from .consume_plan import ConsumePlan, plan_of
from .inflight import InFlight
from .names import refine
from .parked import Next, ParkedStream, StreamSet
from .senders import Senders
from .timers import Timer, Timers

#: Responses in a row before other streams have their turn.
RESPONSES_A_TURN = 4
#: Bytes to read at once, for consumers that want small responses: several of those come from one read.
MIN_CHUNK_BYTES = 64 * 1024
#: The same for those that want large ones, made of several chunks: these stay in the processor's cache from the
#: read to the response.
MAX_CHUNK_BYTES = 256 * 1024
#: Seconds after which a stream looks again for room in memory, if nobody told it sooner that there is some.
ROOM_SECONDS = 1.0
#: Seconds between two looks for peers that do not read: there may be very many streams to look at.
EVICTION_SECONDS = 0.1
#: Metadata key by which a client names itself in a group's description.
CLIENT_ID_KEY = "client-id"
_MAX_CLIENT_ID = 128


class ConsumeStream(ParkedStream):
    def __init__(self, service: Consumer, plan: ConsumePlan, reader: Reader, call: Call) -> None:
        super().__init__(call, service.senders)
        self._service = service
        self._plan = plan
        self._topic_utf8 = plan.topic.encode()
        self._reader = reader
        #: Parked behind what is readable now, to learn of more while ``min_bytes`` are gathered.
        self._probe: Reader | None = None
        self._chunk: Batches | None = None
        self._chunk_bytes = min(max(plan.max_bytes, MIN_CHUNK_BYTES), MAX_CHUNK_BYTES)
        #: What came of reading on behind records that go out first.
        self._failure: errors.TakhinError | None = None
        #: Bytes on the account of what is being sent.
        self._held = 0
        self._left = plan.max_records
        #: First offset that is not sent, exclusive; None for a stream that goes on.
        self._end_offset = reader.watermarks()[1] if plan.until_end else None
        self._complete = False
        self._gather_until: float | None = None
        self._heartbeat_due = time.monotonic() + plan.heartbeat_seconds
        self._timer: Timer | None = None
        #: When the responses that gRPC holds were handed to it, ``time.monotonic`` seconds.
        self._under_way: deque[float] = deque()
        self.member: GroupMember | None = None
        self.leave_group: Callable[[], None] | None = None

    def describe(self) -> dict[str, Any]:
        plan = self._plan
        return {"stream": "consume", "topic": plan.topic, "partition": plan.partition, "peer": self.context.peer()}

    def stuck_since(self) -> float | None:
        """When the response was handed to gRPC that the peer should read next; None when it has read all."""
        try:
            return self._under_way[0]
        except IndexError:
            return None

    # -- with the turn -----------------------------------------------------------------------

    def step(self) -> Next:
        try:
            for _ in range(RESPONSES_A_TURN):
                if self.gone:
                    return Next.DONE
                if self.ending is not None:
                    raise self.ending
                if self._failure is not None:
                    raise self._failure
                if self._is_complete():
                    return Next.DONE
                if self._chunk is None and self._is_gathering():
                    assert self._probe is not None
                    return self._park(self._probe, self._gather_until)
                fresh = self._chunk is None
                if fresh and not self._may_read():
                    return self._wait_for_room()
                if fresh and not self._read():
                    return self._park(self._reader, None)
                if not self._hold():
                    return self._wait_for_room()
                self._respond(fresh)
                if self.must_wait():
                    return Next.PARK
        except BlockingIOError:
            return Next.AGAIN  # in a thread that may wait for the disk
        except errors.TopicNotFound as exc:
            raise refine(exc, [("topic", self._plan.topic)]) from None
        return Next.AGAIN

    def _is_complete(self) -> bool:
        if self._complete or (self._plan.max_records and self._left == 0):
            return True
        return self._end_offset is not None and self._reader.next_offset >= self._end_offset

    def _read(self) -> bool:
        """Whether there is a chunk now. Raises ``BlockingIOError`` when there is a wait for one and may be none."""
        chunk = self._reader.read(self._chunk_bytes, cached_only=not self.may_wait)
        end = self._end_offset
        if chunk is not None and end is not None and chunk.end_offset > end:
            chunk = Batches(chunk.tobytes(), chunk.next_offset, end)
        self._chunk = chunk
        return chunk is not None

    def _respond(self, fresh: bool) -> None:
        """One response from the chunk and those behind it, or none if there is no record in the chunk."""
        plan = self._plan
        reader = self._reader
        chunk = self._chunk
        assert chunk is not None
        before = chunk.next_offset
        _, high_watermark = reader.watermarks()
        response = ConsumeResponse(self._topic_utf8, plan.partition, high_watermark, plan.max_bytes, self._left)
        while response.add(chunk):
            next_offset = chunk.next_offset
            size = chunk.size_bytes
            # Gone before the next one is read, which then comes to the same place in memory.
            self._chunk = chunk = None
            moved = next_offset > reader.next_offset
            reader.advance(next_offset)
            if not response.count or not moved or next_offset >= high_watermark:
                break
            if self._is_complete() or not self._read_on(size):
                break
            chunk = self._chunk
            assert chunk is not None
        else:
            next_offset = chunk.next_offset
            reader.advance(next_offset)
        count = response.count
        if not count:
            self._drop_chunk()
            if fresh and before == next_offset:
                if self._end_offset is None:
                    raise errors.Internal(f"a read at offset {next_offset} gave nothing to go on with")
                # No record is left below the end, though offsets are: compaction took them.
                self._complete = True
            return
        log_start_offset, high_watermark = reader.watermarks()
        message = response.finish(high_watermark, log_start_offset)
        self._send_of_chunk(message)
        if plan.max_records:
            self._left -= count
        self._heartbeat_due = time.monotonic() + plan.heartbeat_seconds
        if self.member is not None:
            self.member.position = next_offset

    def _read_on(self, size_bytes: int) -> bool:
        """Whether there is another chunk for the response, with its place on the account; the last had that size."""
        if not self._service.sending.has_room(size_bytes):
            return False
        try:
            found = self._read()
        except BlockingIOError:
            return False
        except errors.TakhinError as exc:
            self._failure = exc
            return False
        if found and not self._hold_more():
            self._chunk = None
            return False
        return found

    def _send_of_chunk(self, message: bytes) -> None:
        """The rest of the chunk is kept for the next response, if there is room in memory for both."""
        chunk = self._chunk
        if chunk is None:
            self.call.send(message, self._hand_over(0))
            return
        size = len(message)
        if 2 * size < chunk.size_bytes:
            # Many responses from one chunk: it keeps its place until the last of them.
            self.call.send(message)
            return
        rest = min(chunk.size_bytes, self._service.sending.limit_bytes)
        missing = size + rest - self._held
        if missing > 0:
            if self._service.sending.try_take(missing):
                self._held += missing
            else:
                self._chunk = None
                rest = 0
        del chunk
        self.call.send(message, self._hand_over(rest))

    def _is_gathering(self) -> bool:
        """Whether something is readable, less than ``min_bytes``, and there is time to wait for more."""
        plan = self._plan
        if plan.min_bytes <= 1 or not plan.max_wait_seconds or self._end_offset is not None:
            return False
        if self._probe is None:
            self._probe = self._service.engine.open_reader(plan.topic, plan.partition, LATEST)
        # First the probe to the end, then the count: what comes in between wakes the probe.
        self._probe.advance(self._probe.watermarks()[1])
        available = self._reader.available_bytes(plan.min_bytes)
        now = time.monotonic()
        if 0 < available < plan.min_bytes:
            if self._gather_until is None:
                self._gather_until = now + plan.max_wait_seconds
            if now < self._gather_until:
                return True
        self._gather_until = None
        return False

    def _park(self, reader: Reader, due: float | None) -> Next:
        self._drop_chunk()
        plan = self._plan
        if plan.heartbeat_seconds:
            now = time.monotonic()
            if now >= self._heartbeat_due:
                log_start_offset, high_watermark = self._reader.watermarks()
                message, _ = encode_consume_response(
                    self._topic_utf8, plan.partition, high_watermark, log_start_offset, None, 0, 0
                )
                self.call.send(message)
                self._heartbeat_due = time.monotonic() + plan.heartbeat_seconds
            due = self._heartbeat_due if due is None else min(due, self._heartbeat_due)
        if due is not None:
            self._wake_at(due)
        reader.park(self.wake)
        return Next.PARK

    def _wake_at(self, due: float) -> None:
        """``time.monotonic`` seconds. A timer that comes earlier does as well: its step sees that it is early."""
        timer = self._timer
        if timer is None or timer.is_cancelled or timer.due > due:
            if timer is not None:
                timer.cancel()
            self._timer = self._service.timers.after(due - time.monotonic(), self.wake)

    # -- memory ------------------------------------------------------------------------------

    def _may_read(self) -> bool:
        """Whether what would be read fits; looked at first, so that nothing is read in vain."""
        sending = self._service.sending
        size = min(self._reader.available_bytes(self._chunk_bytes), self._chunk_bytes, sending.limit_bytes)
        return sending.has_room(size)

    def _hold(self) -> bool:
        """Whether the chunk has its place on the account; it keeps that until it is dropped."""
        return self._held > 0 or self._hold_more()

    def _hold_more(self) -> bool:
        assert self._chunk is not None
        sending = self._service.sending
        size = min(self._chunk.size_bytes, sending.limit_bytes)
        if not sending.try_take(size):
            return False
        self._held += size
        return True

    def _unhold(self) -> None:
        if self._held:
            self._service.sending.give(self._held)
            self._held = 0

    def _hand_over(self, kept_bytes: int) -> Callable[[], None]:
        """The account is kept until gRPC holds the response no more; but for these, for what is kept of the chunk."""
        held, self._held = self._held - kept_bytes, kept_bytes
        self._under_way.append(time.monotonic())

        def taken() -> None:
            self._under_way.popleft()
            self._service.sending.give(held)

        return taken

    def _drop_chunk(self) -> None:
        self._chunk = None
        self._unhold()

    def _wait_for_room(self) -> Next:
        """Consumers that do not read have all the memory there is for sending: the worst of them go."""
        self._drop_chunk()
        self._service.evict_slow()
        self._service.sending.when_room(self.wake)
        self._wake_at(time.monotonic() + ROOM_SECONDS)
        return Next.PARK

    def release(self) -> None:
        self._drop_chunk()
        self._service.streams.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self.leave_group is not None:
            self.leave_group()
        if self._probe is not None:
            self._probe.close()
        self._reader.close()


class Consumer:
    """Opens consumer streams, and knows those that are open."""

    def __init__(
        self,
        engine: Engine,
        sending: InFlight,
        senders: Senders,
        timers: Timers,
        max_streams: int,
        max_message_bytes: int,
    ) -> None:
        self.engine = engine
        #: The account of bytes that are read and not yet sent.
        self.sending = sending
        self.senders = senders
        self.timers = timers
        self.streams: StreamSet[ConsumeStream] = StreamSet("consumer", max_streams)
        self._looked = 0.0
        self._max_message_bytes = max_message_bytes

    def consume_messages(self, data: bytes, call: Call) -> None:
        context = call.context
        plan = plan_of(decode_consume(data), self._max_message_bytes)
        try:
            reader = self.engine.open_reader(plan.topic, plan.partition, self._start_offset(plan))
        except errors.TopicNotFound as exc:
            raise refine(exc, [("topic", plan.topic)]) from None
        with ExitStack() as undo:
            undo.callback(reader.close)
            stream = ConsumeStream(self, plan, reader, call)
            if plan.group_id:
                stream.member = _member(plan, reader, context)
                stream.leave_group = self.engine.join_group(plan.group_id, stream.member)
                undo.callback(stream.leave_group)
            self.streams.add(stream)
            undo.pop_all()
        try:
            # Tells the caller that the place is fixed: what is produced from now on will be seen.
            context.send_initial_metadata(())
        except grpc.RpcError:
            pass  # gone already, which the next line notices
        stream.watch_client()
        stream.wake()

    def evict_slow(self) -> None:
        """Give up the peers that have not read for the longest, if any has not for long."""
        self.senders.evict_stuck()
        now = time.monotonic()
        if now - self._looked < EVICTION_SECONDS:
            return
        self._looked = now
        slow = []
        for stream in self.streams.all():
            since = stream.stuck_since()
            if since is not None and now - since > self.senders.EVICT_AFTER_SECONDS:
                slow.append((since, stream))
        for _, stream in heapq.nsmallest(max(1, len(slow) // 8), slow, key=lambda entry: entry[0]):
            stream.evict()

    def _start_offset(self, plan: ConsumePlan) -> int:
        """The group's place, else the time's, else the offset asked for."""
        if plan.group_id:
            [(_, _, committed)] = self.engine.committed_offsets(plan.group_id, [(plan.topic, plan.partition)])
            if committed >= 0:
                return committed
        if plan.start_timestamp is not None:
            found = self.engine.offset_at_time(plan.topic, plan.partition, plan.start_timestamp).offset
            return LATEST if found < 0 else found
        return plan.offset


def _member(plan: ConsumePlan, reader: Reader, context: grpc.ServicerContext) -> GroupMember:
    metadata = {str(key): value for key, value in context.invocation_metadata() or ()}
    client_id = str(metadata.get(CLIENT_ID_KEY) or metadata.get("user-agent") or "")[:_MAX_CLIENT_ID]
    return GroupMember(
        member_id=str(uuid.uuid4()),
        client_id=client_id,
        client_host=host_of(context.peer()),
        topic=plan.topic,
        partition=plan.partition,
        position=reader.next_offset,
    )


def host_of(peer: str) -> str:
    """``ipv4:127.0.0.1:5000`` as ``127.0.0.1``. gRPC percent-encodes the brackets of IPv6."""
    kind, _, address = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    host = address.replace("%5B", "[").replace("%5D", "]").rpartition(":")[0]
    return host.strip("[]")
