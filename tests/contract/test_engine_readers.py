"""The engine interface: readers, their places, and how they are woken."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from takhin import errors
from takhin.engine import base
from takhin.engine.base import Engine

from .harness import PATIENCE, append, read_all, wait_until


class Wake:
    def __init__(self) -> None:
        self.count = 0
        self.event = threading.Event()

    def __call__(self) -> None:
        self.count += 1
        self.event.set()

    def wait(self) -> None:
        assert self.event.wait(PATIENCE), "the reader was not woken"
        self.event.clear()


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """Ten batches of one record of 1 KB, and one of three."""
    engine.create_topic("t", 1, 1, {})
    for n in range(10):
        append(engine, "t", 0, b"%d" % n * 1000)
    append(engine, "t", 0, b"x", b"y", b"z")
    return engine


def test_a_reader_begins_where_it_is_told(filled: Engine) -> None:
    for offset, expected in ((base.EARLIEST, 0), (base.LATEST, 13), (0, 0), (12, 12), (13, 13)):
        reader = filled.open_reader("t", 0, offset)
        assert reader.next_offset == expected
        assert reader.watermarks() == (0, 13)
        assert [at for at, _ in read_all(reader)] == list(range(expected, 13))
        reader.close()


@pytest.mark.parametrize("offset", [14, 2**62, 2**63 - 1])
def test_an_offset_outside_of_the_log_is_out_of_range(filled: Engine, offset: int) -> None:
    with pytest.raises(errors.OffsetOutOfRange) as caught:
        filled.open_reader("t", 0, offset)
    fields = caught.value.fields
    assert (fields["offset"], fields["log_start_offset"], fields["high_watermark"]) == (str(offset), "0", "13")


def test_reading_does_not_move_the_place_on(filled: Engine) -> None:
    reader = filled.open_reader("t", 0, 0)
    first, again = reader.read(3000), reader.read(3000)
    assert first is not None
    assert again is not None
    assert first.records() == again.records()
    assert reader.next_offset == 0


def test_reads_are_bounded_but_give_at_least_one_batch(filled: Engine) -> None:
    reader = filled.open_reader("t", 0, 0)
    smallest = reader.read(1)
    assert smallest is not None
    assert [record[0] for record in smallest.records()] == [0]
    some = reader.read(3500)
    assert some is not None
    assert 1 <= len(some.records()) <= 4


def test_a_place_in_the_middle_of_a_batch_is_kept(filled: Engine) -> None:
    reader = filled.open_reader("t", 0, 11)
    batches = reader.read(1000)
    assert batches is not None
    assert [(record[0], record[3]) for record in batches.records()] == [(11, b"y"), (12, b"z")]


def test_available_bytes_grow_with_what_there_is(filled: Engine) -> None:
    reader = filled.open_reader("t", 0, 5)
    assert reader.available_bytes(1_000_000) >= 5000
    assert reader.available_bytes(1) >= 1
    reader.advance(13)
    assert reader.available_bytes(1_000_000) == 0


def test_nothing_to_read_is_none(filled: Engine) -> None:
    reader = filled.open_reader("t", 0, base.LATEST)
    assert reader.read(1000) is None


def test_a_parked_reader_is_woken_once_by_an_append(filled: Engine) -> None:
    reader = filled.open_reader("t", 0, base.LATEST)
    wake = Wake()
    reader.park(wake)
    assert wake.count == 0
    append(filled, "t", 0, b"new")
    wake.wait()
    assert read_all(reader) == [(13, b"new")]
    append(filled, "t", 0, b"newer")
    assert wake.count == 1


def test_parking_with_something_to_read_wakes_at_once(filled: Engine) -> None:
    wake = Wake()
    filled.open_reader("t", 0, 0).park(wake)
    wake.wait()


def test_the_second_park_takes_the_place_of_the_first(filled: Engine) -> None:
    reader = filled.open_reader("t", 0, base.LATEST)
    first, second = Wake(), Wake()
    reader.park(first)
    reader.park(second)
    append(filled, "t", 0, b"new")
    second.wait()
    assert first.count == 0


def test_a_closed_reader_is_not_woken(filled: Engine) -> None:
    reader, other = filled.open_reader("t", 0, base.LATEST), filled.open_reader("t", 0, base.LATEST)
    closed, heard = Wake(), Wake()
    reader.park(closed)
    other.park(heard)
    reader.close()
    reader.close()
    append(filled, "t", 0, b"new")
    heard.wait()
    assert closed.count == 0


def test_no_wake_is_lost_between_reading_and_parking(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    reader = engine.open_reader("t", 0, 0)
    found: list[int] = []

    def follow() -> None:
        wake = Wake()
        while len(found) < 300:
            found.extend(offset for offset, _ in read_all(reader))
            if len(found) < 300:
                reader.park(wake)
                wake.wait()

    follower = threading.Thread(target=follow)
    follower.start()
    for n in range(300):
        append(engine, "t", 0, b"%d" % n, acks=base.ACKS_WRITTEN)
    follower.join(PATIENCE)
    assert found == list(range(300))


def test_a_reader_of_a_deleted_topic_is_woken_and_told(filled: Engine) -> None:
    reader = filled.open_reader("t", 0, base.LATEST)
    wake = Wake()
    reader.park(wake)
    filled.delete_topic("t")
    wake.wait()
    with pytest.raises(errors.TopicNotFound):
        reader.read(1000)


def test_a_reader_that_retention_has_passed_is_told(filled: Engine) -> None:
    reader = filled.open_reader("t", 0, 2)
    filled.delete_records([("t", 0, 5)])
    with pytest.raises(errors.OffsetOutOfRange) as caught:
        reader.read(1000)
    assert caught.value.fields["log_start_offset"] == "5"


def test_the_high_watermark_never_goes_back(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    seen: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        reader = engine.open_reader("t", 0, 0)
        while not stop.is_set():
            seen.append(reader.watermarks()[1])

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(50):
        append(engine, "t", 0, b"v")
    stop.set()
    watcher.join()
    assert seen == sorted(seen)
    assert engine.describe_partition("t", 0).high_watermark == 50


def test_many_readers_are_all_woken(engine: Engine) -> None:
    engine.create_topic("t", 1, 1, {})
    wakes: list[Callable[[], None]] = []
    woken: list[int] = []
    for n in range(200):
        wakes.append(lambda n=n: woken.append(n))  # type: ignore[misc]
        engine.open_reader("t", 0, base.LATEST).park(wakes[-1])
    append(engine, "t", 0, b"v")
    wait_until(lambda: len(woken) == 200)
    assert sorted(woken) == list(range(200))
