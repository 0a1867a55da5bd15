"""The engine interface: appending, idempotence, deleting records, offsets by time."""

from __future__ import annotations

import threading

import pytest

from takhin import errors
from takhin._fastlog import murmur2
from takhin.engine import base
from takhin.engine.base import Engine

from .harness import append, outcome_of, read_all, spans, wait_until


def test_offsets_are_dense_and_a_batch_is_together(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    first = append(engine, "t", 0, b"a", b"b", b"c")
    assert (first.partition, first.base_offset, first.last_offset) == (0, 0, 2)
    second = append(engine, "t", 0, b"d")
    assert (second.base_offset, second.last_offset) == (3, 3)
    assert second.high_watermark == 4
    assert read_all(engine.open_reader("t", 0, 0)) == [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"d")]


@pytest.mark.parametrize("acks", [base.ACKS_DURABLE, base.ACKS_WRITTEN, base.ACKS_NONE])
def test_whatever_the_acks_the_record_becomes_readable(engine: Engine, acks: int) -> None:
    engine.create_topic("t", 1, 1, {})
    append(engine, "t", 0, b"v", acks=acks)
    wait_until(lambda: engine.describe_partition("t", 0).high_watermark == 1)
    assert read_all(engine.open_reader("t", 0, 0)) == [(0, b"v")]


def test_a_durable_append_can_be_read_when_it_is_done(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    for n in range(50):
        at = append(engine, "t", 0, b"%d" % n)
        assert engine.describe_partition("t", 0).high_watermark > at.last_offset


def test_appends_side_by_side_keep_every_record_once(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})

    def produce(thread: int) -> None:
        for n in range(25):
            append(engine, "t", 0, b"%d-%d" % (thread, n))

    threads = [threading.Thread(target=produce, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_all(engine.open_reader("t", 0, 0))
    assert [offset for offset, _ in found] == list(range(200))
    assert sorted(value or b"" for _, value in found) == sorted(b"%d-%d" % (t, n) for t in range(8) for n in range(25))
    for thread_number in range(8):
        own = [value for _, value in found if value and value.startswith(b"%d-" % thread_number)]
        assert own == [b"%d-%d" % (thread_number, n) for n in range(25)]


def test_batches_of_one_caller_keep_their_order_without_waiting(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    outcomes: list[base.Appended | errors.TakhinError] = []
    for n in range(200):
        engine.append("t", 0, spans(b"%d" % n), base.ACKS_DURABLE, None, outcomes.append)
    wait_until(lambda: len(outcomes) == 200)
    assert [value for _, value in read_all(engine.open_reader("t", 0, 0))] == [b"%d" % n for n in range(200)]


def test_a_null_value_an_empty_value_and_headers_are_kept(engine: Engine) -> None:
    from takhin._fastlog import RecordSpans

    engine.create_topic("t", 1, 1, {})
    records = RecordSpans.from_records(
        [(None, None, (), 7), (b"", b"", [("h", b"1"), ("h", None), ("", b"")], 8), (b"k", b"v", (), 9)]
    )
    outcome = outcome_of(engine, "t", 0, records)
    assert isinstance(outcome, base.Appended)
    assert outcome.timestamp == 9
    batches = engine.open_reader("t", 0, 0).read(1000)
    assert batches is not None
    assert batches.records() == [
        (0, 7, None, None, []),
        (1, 8, b"", b"", [(b"h", b"1"), (b"h", None), (b"", b"")]),
        (2, 9, b"k", b"v", []),
    ]


def test_a_key_goes_to_kafkas_partition_and_keyless_records_are_spread(engine: Engine) -> None:
    engine.create_topic("t", 4, 1, {})
    for key in (b"", b"a", b"some key", b"21"):
        at = append(engine, "t", base.ANY_PARTITION, b"v", key=key)
        assert at.partition == (murmur2(key) & 0x7FFFFFFF) % 4
    assert {append(engine, "t", base.ANY_PARTITION, b"v").partition for _ in range(200)} == {0, 1, 2, 3}


@pytest.mark.parametrize("acks", [base.ACKS_DURABLE, base.ACKS_WRITTEN, base.ACKS_NONE])
def test_failures_come_back_as_outcomes(engine: Engine, acks: int) -> None:
    engine.create_topic("t", 1, 1, {"max.message.bytes": "1000"})
    cases = [
        (("none", 0, spans(b"v")), errors.TopicNotFound),
        (("none", -1, spans(b"v")), errors.TopicNotFound),
        (("t", 1, spans(b"v")), errors.PartitionNotFound),
        (("t", -2, spans(b"v")), errors.PartitionNotFound),
        (("t", 0, spans(b"v" * 1000)), errors.RecordTooLarge),
        (("t", 0, spans()), errors.InvalidArgument),
        (("t", -1, spans()), errors.InvalidArgument),
        (("t", 0, spans(b"v", timestamp=-1)), errors.InvalidTimestamp),
    ]
    for (topic, partition, records), expected in cases:
        assert isinstance(outcome_of(engine, topic, partition, records, acks), expected)
    assert append(engine, "t", 0, b"next").base_offset == 0


def test_a_batch_is_written_whole_or_not_at_all(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {"max.message.bytes": "1000"})
    assert isinstance(outcome_of(engine, "t", 0, spans(b"small", b"x" * 1000)), errors.RecordTooLarge)
    assert engine.describe_partition("t", 0).log_end_offset == 0


def test_what_was_sent_twice_is_written_once(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    producer_id, epoch = engine.init_producer_id(0, 0)
    assert producer_id > 0
    stamps = [base.ProducerStamp(producer_id, epoch, sequence) for sequence in (0, 2, 3)]
    first = append(engine, "t", 0, b"a", b"b", producer=stamps[0])
    second = append(engine, "t", 0, b"c", producer=stamps[1])
    for stamp, values, at in ((stamps[0], (b"a", b"b"), first), (stamps[1], (b"c",), second)):
        again = append(engine, "t", 0, *values, producer=stamp)
        assert (again.base_offset, again.last_offset) == (at.base_offset, at.last_offset)
    append(engine, "t", 0, b"d", producer=stamps[2])
    assert [value for _, value in read_all(engine.open_reader("t", 0, 0))] == [b"a", b"b", b"c", b"d"]


def test_a_gap_in_a_producers_sequence_is_refused(engine: Engine) -> None:
    engine.create_topic("t", 2, 1, {})
    producer_id, epoch = engine.init_producer_id(0, 0)
    append(engine, "t", 0, b"a", producer=base.ProducerStamp(producer_id, epoch, 0))
    gap = outcome_of(engine, "t", 0, spans(b"c"), producer=base.ProducerStamp(producer_id, epoch, 2))
    assert isinstance(gap, errors.OutOfOrderSequence)
    # Sequences are a partition's own.
    append(engine, "t", 1, b"a", producer=base.ProducerStamp(producer_id, epoch, 0))
    append(engine, "t", 0, b"b", producer=base.ProducerStamp(producer_id, epoch, 1))


def test_a_newer_epoch_fences_the_older_producer(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    producer_id, epoch = engine.init_producer_id(0, 0)
    append(engine, "t", 0, b"a", producer=base.ProducerStamp(producer_id, epoch, 0))
    again, newer = engine.init_producer_id(producer_id, epoch)
    assert (again, newer) == (producer_id, epoch + 1)
    append(engine, "t", 0, b"b", producer=base.ProducerStamp(producer_id, newer, 0))
    fenced = outcome_of(engine, "t", 0, spans(b"c"), producer=base.ProducerStamp(producer_id, epoch, 1))
    assert isinstance(fenced, errors.ProducerFenced)
    with pytest.raises(errors.ProducerFenced):
        engine.init_producer_id(producer_id, epoch)
    assert [value for _, value in read_all(engine.open_reader("t", 0, 0))] == [b"a", b"b"]


def test_an_unknown_producer_is_refused(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    outcome = outcome_of(engine, "t", 0, spans(b"a"), producer=base.ProducerStamp(987654321, 0, 0))
    assert isinstance(outcome, errors.UnknownProducer)
    with pytest.raises(errors.UnknownProducer):
        engine.init_producer_id(987654321, 0)


def test_producer_ids_are_never_given_twice(engine: Engine) -> None:
    assert len({engine.init_producer_id(0, 0)[0] for _ in range(20)}) == 20


def test_deleted_records_are_gone_and_the_others_keep_their_offsets(engine: Engine) -> None:
    engine.create_topic("t", 2, 1, {})
    for n in range(10):
        append(engine, "t", 0, b"%d" % n)
    assert engine.delete_records([("t", 0, 4), ("t", 1, -1)]) == [4, 0]
    assert engine.describe_partition("t", 0).log_start_offset == 4
    assert [offset for offset, _ in read_all(engine.open_reader("t", 0, base.EARLIEST))] == list(range(4, 10))
    with pytest.raises(errors.OffsetOutOfRange) as caught:
        engine.open_reader("t", 0, 3)
    assert caught.value.fields["log_start_offset"] == "4"
    assert engine.delete_records([("t", 0, 2)]) == [4]
    assert engine.delete_records([("t", 0, -1)]) == [10]
    assert read_all(engine.open_reader("t", 0, base.EARLIEST)) == []
    assert append(engine, "t", 0, b"next").base_offset == 10


def test_deleting_beyond_the_end_deletes_nothing_anywhere(engine: Engine) -> None:
    engine.create_topic("t", 2, 1, {})
    append(engine, "t", 0, b"a", b"b")
    append(engine, "t", 1, b"a", b"b")
    with pytest.raises(errors.OffsetOutOfRange):
        engine.delete_records([("t", 0, 1), ("t", 1, 3)])
    assert engine.describe_partition("t", 0).log_start_offset == 0


def test_the_earliest_record_at_or_after_a_time_is_found(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    assert engine.offset_at_time("t", 0, 0) == base.OffsetAtTime(-1, -1)
    # Times need not grow with offsets.
    for timestamp in (1000, 3000, 2000, 5000, 4000):
        append(engine, "t", 0, b"v", timestamp=timestamp)
    found = [(engine.offset_at_time("t", 0, t).offset, t) for t in (0, 1000, 1001, 3000, 3001, 5000, 5001)]
    assert found == [(0, 0), (0, 1000), (1, 1001), (1, 3000), (3, 3001), (3, 5000), (-1, 5001)]
    assert engine.offset_at_time("t", 0, 3001).timestamp == 5000
    engine.delete_records([("t", 0, 2)])
    assert engine.offset_at_time("t", 0, 0) == base.OffsetAtTime(2, 2000)


def test_records_get_the_servers_time_when_they_bring_none_or_when_the_topic_says_so(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    engine.create_topic("l", 1, 1, {"message.timestamp.type": "LogAppendTime"})
    assert append(engine, "t", 0, b"v", timestamp=5).timestamp == 5
    assert append(engine, "t", 0, b"v").timestamp > 1_600_000_000_000
    assert append(engine, "l", 0, b"v", timestamp=5).timestamp > 1_600_000_000_000
