"""Record batches in memory: the C code against the slow reference, and against kafka-python."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder

from takhin._fastlog import MAX_OFFSET, Batches, RecordSpans, batch_info, crc32c, crc32c_backends
from takhin.errors import DataLoss
from tests.reference import record_batch as reference

QUICK = settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

NOW = 1_700_000_000_000
blobs = st.none() | st.binary(max_size=80) | st.binary(min_size=120, max_size=300)
texts = st.text(max_size=70).map(str.encode)
timestamps = st.integers(1, 2**62) | st.integers(NOW - 100, NOW + 100)
contents = st.lists(
    st.tuples(blobs, blobs, st.lists(st.tuples(texts, blobs), max_size=4), timestamps), min_size=1, max_size=70
)
producers = st.just((-1, -1, -1)) | st.tuples(
    st.integers(0, 2**63 - 1), st.integers(0, 2**15 - 1), st.integers(0, 2**31 - 1)
)
offsets = st.integers(0, 2**62)

#: A few batches of different sorts one after the other, and the offset behind them.
chains = st.tuples(
    st.integers(0, 2**50), st.lists(st.tuples(contents, st.booleans(), st.booleans()), min_size=1, max_size=4)
)


def chain_bytes(chain: Any) -> tuple[bytes, int]:
    offset, parts = chain
    data = b""
    for content, append_time, gaps in parts:
        more: dict[str, Any] = {"append_time": NOW} if append_time else {}
        last = len(content) - 1
        if gaps:
            more["offset_deltas"] = [2 * n + 1 for n in range(len(content))]
            more["last_offset_delta"] = last = 2 * len(content) + 1
        data += reference.encode(content, offset, leader_epoch=len(data) % 7, **more)
        offset += last + 1
    return data, offset


def expected_records(data: bytes) -> list[Any]:
    return [record.plain() for batch in reference.decode_all(data) for record in batch.records]


@given(content=contents, offset=offsets, producer=producers, append_time=st.booleans())
@QUICK
def test_frame_writes_what_the_reference_writes(
    content: Any, offset: int, producer: tuple[int, int, int], append_time: bool
) -> None:
    producer_id, epoch, sequence = producer
    batch = RecordSpans.from_records(content).frame(
        NOW, log_append_time=append_time, producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence
    )
    expected = reference.encode(
        content,
        offset,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        append_time=NOW if append_time else None,
    )
    assert batch.tobytes(offset) == expected
    assert (batch.size, batch.record_count) == (len(expected), len(content))
    decoded = reference.decode(expected)
    assert batch.max_timestamp == decoded.max_timestamp
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == producer


@given(chain=chains)
@QUICK
def test_records_are_those_of_the_reference(chain: Any) -> None:
    data, _ = chain_bytes(chain)
    assert Batches(data).records() == expected_records(data)


@given(chain=chains, choice=st.data())
@QUICK
def test_a_walk_gives_exactly_the_offsets_from_its_place_to_its_end(chain: Any, choice: st.DataObject) -> None:
    data, end = chain_bytes(chain)
    start = chain[0]
    first = choice.draw(st.integers(max(start - 2, 0), end + 2))
    last = choice.draw(st.integers(max(start - 2, 0), end + 2) | st.just(MAX_OFFSET))
    expected = [record for record in expected_records(data) if first <= record[0] < last]
    assert Batches(data, first, last).records() == expected


@given(chain=chains, choice=st.data())
@QUICK
def test_find_time_gives_the_next_record_at_or_after_the_time(chain: Any, choice: st.DataObject) -> None:
    data, end = chain_bytes(chain)
    records = expected_records(data)
    batches = Batches(data, chain[0], end)
    place = chain[0]
    for _ in range(3):
        times = [record[1] for record in records]
        wanted = choice.draw(st.sampled_from([0, *times, *(time + 1 for time in times)]))
        expected = next(((r[0], r[1]) for r in records if r[0] >= place and r[1] >= wanted), None)
        assert batches.find_time(wanted) == expected
        place = end if expected is None else expected[0] + 1
        assert batches.next_offset == place
    assert batches.records() == [record for record in records if record[0] >= place]


@given(chain=chains)
@QUICK
def test_kafka_python_reads_the_same_records(chain: Any) -> None:
    data, _ = chain_bytes(chain)
    found = []
    memory = MemoryRecords(data)
    while (batch := memory.next_batch()) is not None:
        assert batch.validate_crc()
        found += [(r.offset, r.timestamp, r.key, r.value, [(k.encode(), v) for k, v in r.headers]) for r in batch]
    assert found == Batches(data).records()


@given(content=contents, epoch=st.integers(0, 2**31 - 1))
@QUICK
def test_what_kafka_python_writes_is_read(content: Any, epoch: int) -> None:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 30,
    )
    for n, (key, value, headers, timestamp) in enumerate(content):
        builder.append(n, timestamp, key, value, [(name.decode(), what) for name, what in headers])
    data = bytes(builder.build())
    assert Batches(data).records() == [
        (n, timestamp, key, value, headers) for n, (key, value, headers, timestamp) in enumerate(content)
    ]
    info = batch_info(data)
    assert info is not None
    assert info.crc_ok


def walk_everything(data: bytes, first: int = 0, last: int = MAX_OFFSET) -> None:
    """Whatever the bytes: a value or DataLoss."""
    info = batch_info(data)
    assert (info is None) == (len(data) < reference.HEADER_BYTES)
    try:
        Batches(data, first, last).find_time(NOW)
    except DataLoss:
        pass
    try:
        for record in Batches(data, first, last).records():
            assert first <= record[0] < last
    except DataLoss:
        pass


@given(data=st.binary(max_size=400), first=offsets, last=offsets)
@settings(QUICK, max_examples=200)
def test_arbitrary_bytes_do_no_harm(data: bytes, first: int, last: int) -> None:
    walk_everything(data)
    walk_everything(data, first, last)


@given(chain=chains, seed=st.integers(0, 2**32), resum=st.booleans())
@settings(QUICK, max_examples=200)
def test_damaged_batches_do_no_harm_even_with_a_sum_that_fits(chain: Any, seed: int, resum: bool) -> None:
    data, _ = chain_bytes(chain)
    chance = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8])):
        # Mostly in the fields and the lengths at the beginning, where it hurts.
        damaged[chance.randrange(min(len(damaged), chance.choice([90, len(damaged)])))] = chance.choice(
            [0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)]
        )
    if resum:
        damaged[16] = 2
        size = int.from_bytes(damaged[8:12], "big", signed=True) + 12
        damaged[17:21] = reference.crc32c(bytes(damaged[21 : max(size, 21)])).to_bytes(4, "big")
    walk_everything(bytes(damaged))
    walk_everything(bytes(damaged[: chance.randrange(len(damaged) + 1)]), chain[0] + 1, chain[0] + 3)
    info = batch_info(bytes(damaged))
    if info is not None and info.crc_ok:
        assert info.last_offset >= info.base_offset
        assert info.record_count >= 0


@given(parts=st.lists(st.binary(max_size=900), max_size=6), backend=st.sampled_from(crc32c_backends()))
@QUICK
def test_crc32c_is_the_references_however_it_is_split(parts: list[bytes], backend: str) -> None:
    crc = 0
    for part in parts:
        crc = crc32c(part, crc, backend=backend)
    assert crc == reference.crc32c(b"".join(parts))
