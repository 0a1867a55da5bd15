"""``ConsumeStream``: what a response is made of, and what of it is on the account of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from takhin import errors
from takhin._fastlog import Batches, RecordSpans
from takhin._wire import decode_consume
from takhin.engine import base
from takhin.server import consume
from takhin.server.consume_plan import plan_of
from takhin.server.inflight import InFlight
from takhin.server.parked import Next
from takhin.v1 import takhin_pb2 as pb

NOW = 1_700_000_000_000
EACH = 1000


class ChunkReader(base.Reader):
    """Gives one batch a read; some offsets cannot be read."""

    def __init__(self, counts: list[int], size: int) -> None:
        self.next_offset = 0
        self.reads: list[int] = []
        self.failures: dict[int, Exception] = {}
        #: Offsets for which there is a wait.
        self.not_cached: set[int] = set()
        self.parked = False
        self.batches: list[tuple[int, int, bytes]] = []
        self.end = 0
        for count in counts:
            spans = RecordSpans.from_records([(None, b"v" * size, [], NOW)] * count)
            self.batches.append((self.end, self.end + count, spans.frame(NOW).tobytes(self.end)))
            self.end += count

    def read(self, max_bytes: int, cached_only: bool = False) -> Batches | None:
        self.reads.append(self.next_offset)
        if cached_only and self.next_offset in self.not_cached:
            raise BlockingIOError
        if self.next_offset in self.failures:
            raise self.failures[self.next_offset]
        for first, end, data in self.batches:
            if first <= self.next_offset < end:
                return Batches(data, self.next_offset)
        return None

    def advance(self, next_offset: int) -> None:
        self.next_offset = next_offset

    def watermarks(self) -> tuple[int, int]:
        return 0, self.end

    def available_bytes(self, limit: int) -> int:
        return sum(len(data) for _, end, data in self.batches if end > self.next_offset)

    def park(self, wake: Callable[[], None]) -> None:
        self.parked = True

    def close(self) -> None:
        pass


class Peer:
    """A stream over a reader, and who takes its messages."""

    def __init__(self, reader: ChunkReader, limit_bytes: int = 1 << 30, **request: Any) -> None:
        self.reader = reader
        self.sending = InFlight(limit_bytes)
        self.messages: list[list[int]] = []
        self.sizes: list[int] = []
        #: Of the messages that gRPC still holds.
        self.under_way: list[Callable[[], None]] = []
        self.most = 0
        service = Mock(sending=self.sending, engine=Mock())
        plan = plan_of(decode_consume(pb.ConsumeMessagesRequest(topic="t", **request).SerializeToString()), 1 << 24)
        self.stream = consume.ConsumeStream(service, plan, reader, Mock(send=self.send, wait_to_send=self.wait_to_send))

    def send(self, message: bytes | None, taken: Callable[[], None] | None = None) -> None:
        assert message is not None
        response = pb.ConsumeMessagesResponse.FromString(message)
        self.messages.append([record.offset for record in response.records])
        self.sizes.append(len(message))
        self.most = max(self.most, self.sending.used_bytes)
        if taken is not None:
            self.under_way.append(taken)

    def wait_to_send(self, resume: object) -> bool:
        return False

    def take(self) -> None:
        while self.under_way:
            self.under_way.pop()()

    def run(self) -> Next:
        while (following := self.stream.step()) is Next.AGAIN:
            self.take()
        self.take()
        return following

    @property
    def offsets(self) -> list[int]:
        return [offset for message in self.messages for offset in message]


def test_responses_are_full_and_nothing_is_read_twice() -> None:
    peer = Peer(ChunkReader([7] * 20, EACH), max_bytes=10_500)
    assert peer.run() is Next.PARK
    assert [len(message) for message in peer.messages] == [10] * 14
    assert peer.offsets == list(range(140))
    assert peer.reader.reads == [*range(0, 140, 7), 140]
    assert max(peer.sizes) <= 10_500 + 20
    assert peer.sending.used_bytes == 0


def test_a_response_ends_where_nothing_more_is_readable() -> None:
    reader = ChunkReader([3, 1], EACH)
    peer = Peer(reader, max_bytes=1 << 20)
    assert peer.run() is Next.PARK
    assert peer.messages == [[0, 1, 2, 3]]
    # To find that out, the reader was not asked within the response.
    assert (reader.reads, reader.parked) == ([0, 3, 4], True)


@pytest.mark.parametrize("left", [1, 6, 7, 8, 14, 21])
def test_max_records_ends_within_and_between_chunks(left: int) -> None:
    peer = Peer(ChunkReader([7] * 3, EACH), max_records=left)
    assert peer.run() is Next.DONE
    assert peer.messages == [list(range(left))]
    peer.stream.release()
    assert peer.sending.used_bytes == 0


def test_until_end_stops_at_the_end_of_the_beginning() -> None:
    reader = ChunkReader([7] * 5, EACH)
    reader.end = 17
    peer = Peer(reader, until_end=True)
    reader.end = 35
    assert peer.run() is Next.DONE
    assert peer.messages == [list(range(17))]
    assert reader.reads == [0, 7, 14]
    peer.stream.release()
    assert peer.sending.used_bytes == 0


@pytest.mark.parametrize("at", [0, 7, 14])
def test_records_before_a_failure_go_out_first(at: int) -> None:
    reader = ChunkReader([7] * 4, EACH)
    reader.failures[at] = errors.DataLoss("damaged", first_offset=at, last_offset=at + 6)
    peer = Peer(reader)
    with pytest.raises(errors.DataLoss):
        peer.run()
    assert peer.messages == ([list(range(at))] if at else [])
    assert reader.reads.count(at) == 1
    peer.take()
    peer.stream.release()
    assert peer.sending.used_bytes == 0


def test_a_loss_within_a_chunk_comes_behind_the_records_before_it() -> None:
    reader = ChunkReader([7] * 3, EACH)
    first, end, data = reader.batches[1]
    broken = bytearray(data)
    broken[61 + 5 * ((len(data) - 61) // 7)] = 0x7E
    reader.batches[1] = (first, end, bytes(broken))
    peer = Peer(reader)
    with pytest.raises(errors.DataLoss) as caught:
        peer.run()
    assert peer.messages == [list(range(12))]
    assert caught.value.fields == {"first_offset": "12", "last_offset": "13"}
    peer.take()
    peer.stream.release()
    assert peer.sending.used_bytes == 0


def test_what_is_sent_and_what_is_kept_are_on_the_account() -> None:
    peer = Peer(ChunkReader([7] * 3, EACH), max_bytes=10_500)
    peer.stream._may_read()
    assert peer.stream._read()
    assert peer.stream._hold()
    peer.stream._respond(True)
    [message] = peer.sizes
    rest = len(peer.reader.batches[1][2])
    assert peer.sending.used_bytes >= message + rest
    peer.take()
    assert peer.sending.used_bytes == rest
    peer.stream.release()
    assert peer.sending.used_bytes == 0


@pytest.mark.parametrize("limit", [7_500, 11_000, 15_000, 18_000, 22_000, 30_000])
def test_little_memory_makes_responses_smaller_and_nothing_is_lost(limit: int) -> None:
    peer = Peer(ChunkReader([7] * 12, EACH), limit, max_bytes=10_500)
    for _ in range(200):
        if peer.stream.step() is Next.PARK and peer.reader.parked:
            break
        peer.take()
    peer.take()
    assert peer.offsets == list(range(84))
    assert peer.most <= limit
    assert peer.sending.used_bytes == 0
    if limit >= 30_000:
        assert max(len(message) for message in peer.messages) == 10


def test_a_chunk_that_is_many_responses_is_read_once_and_keeps_its_place() -> None:
    peer = Peer(ChunkReader([50], EACH), max_bytes=1)
    assert peer.run() is Next.PARK
    assert peer.messages == [[n] for n in range(50)]
    assert peer.reader.reads == [0, 50]
    assert peer.sending.used_bytes == 0


def test_a_read_that_gives_nothing_to_go_on_with_is_an_internal_error() -> None:
    reader = ChunkReader([7], EACH)
    reader.batches.append((7, 9, b""))
    reader.end = 9
    peer = Peer(reader)
    with pytest.raises(errors.Internal):
        peer.run()
    assert peer.messages == [list(range(7))]


def test_a_step_that_may_not_wait_leaves_what_is_not_in_memory_to_one_that_may() -> None:
    reader = ChunkReader([2, 2, 2], 100)
    reader.not_cached = {2}
    peer = Peer(reader, offset=0, max_bytes=1 << 20)
    peer.stream.may_wait = False
    # What is in memory goes out, then it is a matter for another thread.
    assert peer.stream.step() is Next.AGAIN
    peer.take()
    assert peer.offsets == [0, 1]
    peer.stream.may_wait = True
    peer.run()
    assert peer.offsets == list(range(6))
