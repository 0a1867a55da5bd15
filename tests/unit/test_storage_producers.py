"""Idempotent producers: a repeat gets its first answer, a gap is refused, an older epoch is fenced."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from takhin import errors
from takhin._fastlog import RecordBatch
from takhin.storage import retention
from takhin.storage.partition import Partition
from takhin.storage.producers import RUNS_KEPT, Producers
from takhin.storage.waiters import Placed

from .storage_tools import NOW, Store, append_batch, configs, flush, frame, killed, settle, stores, values

Make = Callable[..., Store]
PRODUCER = 7


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


def stamped(sequence: int, count: int = 1, epoch: int = 0, producer: int = PRODUCER, **more: Any) -> RecordBatch:
    names = [b"%d/%d/%d" % (producer, epoch, sequence + n) for n in range(count)]
    return frame(*names, producer_id=producer, producer_epoch=epoch, base_sequence=sequence, **more)


def send(partition: Partition, sequence: int, count: int = 1, **more: Any) -> tuple[int, int]:
    placed = append_batch(partition, stamped(sequence, count, **more))
    return placed.base_offset, placed.last_offset


def test_a_repeat_gets_its_first_answer_and_writes_nothing(make: Make) -> None:
    partition = make().open().partition()
    first = append_batch(partition, stamped(0, 3, timestamp=NOW + 1))
    second = append_batch(partition, stamped(3, 2, timestamp=NOW + 2))
    for _ in range(3):
        assert append_batch(partition, stamped(0, 3, timestamp=NOW + 9)) == first == Placed(0, 2, NOW + 1)
        assert append_batch(partition, stamped(3, 2, timestamp=NOW + 9)) == second == Placed(3, 4, NOW + 2)
    assert len(values(partition)) == 5


def test_any_part_of_what_was_written_is_a_repeat_however_it_was_cut_in_batches(make: Make) -> None:
    partition = make().open().partition()
    for sequence in range(0, 12, 3):
        send(partition, sequence, 3)
    for first in range(12):
        for last in range(first, 12):
            assert send(partition, first, last - first + 1) == (first, last)
    assert len(values(partition)) == 12


def test_a_repeat_that_goes_on_past_what_was_written_is_refused_whole(make: Make) -> None:
    partition = make().open().partition()
    send(partition, 0, 3)
    with pytest.raises(errors.OutOfOrderSequence) as caught:
        partition.append(stamped(2, 2), None)
    assert caught.value.fields["expected_sequence"] == "3"
    assert len(values(partition)) == 3


def test_a_gap_is_refused_and_the_right_batch_taken_afterwards(make: Make) -> None:
    partition = make().open().partition()
    for wrong in (1, 5, 2**31 - 1):
        with pytest.raises(errors.OutOfOrderSequence) as caught:
            partition.append(stamped(wrong), None)
        assert caught.value.fields["expected_sequence"] == "0"
    send(partition, 0)
    with pytest.raises(errors.OutOfOrderSequence):
        partition.append(stamped(2), None)
    assert send(partition, 1) == (1, 1)
    assert partition.log_end_offset == 2


def test_an_older_epoch_is_fenced_and_a_newer_one_begins_at_0(make: Make) -> None:
    partition = make().open().partition()
    send(partition, 0, 2)
    with pytest.raises(errors.OutOfOrderSequence):
        partition.append(stamped(2, epoch=1), None)
    assert send(partition, 0, 2, epoch=1) == (2, 3)
    for sequence in (0, 2):
        with pytest.raises(errors.ProducerFenced):
            partition.append(stamped(sequence, epoch=0), None)
    assert send(partition, 0, 2, epoch=1) == (2, 3)
    assert partition.log_end_offset == 4


def test_a_repeat_is_answered_when_the_first_is_on_stable_storage_and_not_before(make: Make) -> None:
    partition = make().open().partition()
    told: list[Any] = []
    with partition._lock:
        pass
    partition.flush_state = 99  # as if no flush ever came
    partition.append(stamped(0), told.append)
    partition.append(stamped(0), told.append)
    assert told == []
    partition.flush_state = 0
    flush(partition)
    assert told == [Placed(0, 0, NOW)] * 2
    partition.append(stamped(0), told.append)
    assert told == [Placed(0, 0, NOW)] * 3, "at once now"


def test_producers_that_write_by_turns_are_told_apart(make: Make) -> None:
    partition = make().open().partition()
    for n in range(20):
        for producer in (1, 2, 3):
            assert send(partition, 2 * n, 2, producer=producer) == (6 * n + 2 * producer - 2, 6 * n + 2 * producer - 1)
    for n in range(20):
        for producer in (3, 1, 2):
            assert send(partition, 2 * n, 2, producer=producer) == (6 * n + 2 * producer - 2, 6 * n + 2 * producer - 1)
    assert partition.log_end_offset == 120


def test_as_many_interleaved_batches_as_promised_are_remembered(make: Make) -> None:
    partition = make().open().partition()
    for n in range(RUNS_KEPT):
        send(partition, n)
        append_batch(partition, frame(b"between"))
    for n in range(RUNS_KEPT):
        assert send(partition, n) == (2 * n, 2 * n)


@pytest.mark.parametrize("how", ["clean", "killed", "killed without a checkpoint", "killed after a checkpoint"])
def test_repeats_are_known_after_a_restart(make: Make, how: str) -> None:
    store = make(configs=configs(segment_bytes=1024)).open()
    partition = store.partition()
    chance = random.Random(how)
    sent: dict[int, list[tuple[int, int, int]]] = {1: [], 2: []}
    for n in range(30):
        producer, count = chance.choice((1, 2)), chance.randint(1, 4)
        sequence = sum(each[1] for each in sent[producer])
        sent[producer].append((sequence, count, send(partition, sequence, count, producer=producer)[0]))
        if n == 20 and how == "killed after a checkpoint":
            assert store.manager is not None
            store.manager.write_checkpoint()
    assert len(partition.segments) > 2
    if how == "clean":
        store.close()
        again = store.open()
    else:
        again = killed(make, store)
        if how == "killed without a checkpoint":
            (again.path / "checkpoint").unlink(missing_ok=True)
        again.open()
    for producer, batches in sent.items():
        for sequence, count, base_offset in batches:
            assert send(again.partition(), sequence, count, producer=producer) == (base_offset, base_offset + count - 1)
        following = batches[-1][0] + batches[-1][1]
        with pytest.raises(errors.OutOfOrderSequence):
            again.partition().append(stamped(following + 1, producer=producer), None)
        assert send(again.partition(), following, producer=producer)[0] == again.partition().log_end_offset - 1


def test_epochs_fence_after_a_restart_too(make: Make) -> None:
    store = make().open()
    send(store.partition(), 0, 2)
    send(store.partition(), 0, 2, epoch=3)
    store.reopen()
    with pytest.raises(errors.ProducerFenced):
        store.partition().append(stamped(2, epoch=2), None)
    assert send(store.partition(), 2, epoch=3) == (4, 4)


def test_sequences_wrap_after_2_to_the_31(make: Make) -> None:
    producers = Producers([(PRODUCER, 0, 2**31 - 2, NOW, [(2**31 - 12, 100, 10)])])
    last = 2**31 - 1
    assert producers.check(PRODUCER, 0, last - 1, 4) == -1
    producers.written(PRODUCER, 0, last - 1, 4, 110, NOW)
    assert producers.check(PRODUCER, 0, 2, 1) == -1, "the next one is number 2"
    assert producers.check(PRODUCER, 0, last - 1, 4) == 110
    assert producers.check(PRODUCER, 0, last, 2) == 111
    assert producers.check(PRODUCER, 0, 0, 2) == 112
    assert producers.check(PRODUCER, 0, last - 11, 14) == 100
    for wrong in (3, last - 12):
        with pytest.raises(errors.OutOfOrderSequence) as caught:
            producers.check(PRODUCER, 0, wrong, 1)
        assert caught.value.fields["expected_sequence"] == "2"


def test_what_comes_next_is_not_taken_for_what_came_2_to_the_31_records_ago() -> None:
    half = 2**30
    producers = Producers()
    for n in range(3):
        producers.written(PRODUCER, 0, n * half % 2**31, half, n * half + n, NOW)  # somebody else wrote between
    assert producers.check(PRODUCER, 0, 3 * half % 2**31, 10) == -1


def test_a_checkpoint_carries_everything() -> None:
    producers = Producers()
    chance = random.Random(3)
    offset, following = 0, {1: 0, 2: 2**31 - 5, 3: 0}
    producers.written(2, 4, 2**31 - 6, 1, 0, NOW)
    for _ in range(200):
        producer, count = chance.choice((1, 2, 3)), chance.randint(1, 5)
        offset += 1 if chance.random() < 0.3 else 0
        producers.written(producer, producer * 2, following[producer], count, offset, NOW)
        following[producer] = (following[producer] + count) % 2**31
        offset += count
    again = Producers(producers.states())
    assert again.states() == producers.states()
    assert len(again) == 3
    for producer, sequence in following.items():
        assert again.check(producer, producer * 2, sequence, 1) == -1


def test_a_producer_whose_records_are_gone_goes_on(make: Make) -> None:
    store = make(configs=configs(segment_bytes=1024)).open()
    partition = store.partition()
    for n in range(30):
        send(partition, n)
    for _ in range(40):
        append_batch(partition, frame(bytes(100)))
    settle(partition)
    partition.raise_log_start(partition.high_watermark - 1)
    assert retention.remove_unused(partition) > 1
    store.close()
    (store.path / "checkpoint").unlink()
    store.open()
    assert send(store.partition(), 30) == (70, 70), "nobody knows better"
    with pytest.raises(errors.OutOfOrderSequence):
        store.partition().append(stamped(32), None)


def test_the_records_of_a_failed_append_count_as_not_sent(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    send(partition, 0)
    file = partition.active.file()

    class Full:
        def append(self, *_: object) -> None:
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

    partition.active.open_file = Full()  # type: ignore[assignment]
    with pytest.raises(errors.DiskFull):
        partition.append(stamped(1), None)
    partition.active.open_file = file
    with pytest.raises(errors.OutOfOrderSequence):
        partition.append(stamped(2), None)
    assert send(partition, 1) == (1, 1)
