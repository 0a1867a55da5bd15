"""The scrubber: finds damage in sealed segments, changes nothing, keeps to its rate, ends when told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from takhin.storage.flusher import IDLE
from takhin.storage.scrubber import Scrubber

from .storage_tools import Store, append, configs, flip, stores, wait_until

Make = Callable[..., Store]


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


def filled(make: Make) -> Store:
    """One partition of five sealed segments with four batches each, and an active one."""
    store = make(configs=configs(segment_bytes=2000)).open()
    for number in range(21):
        append(store.partition(), b"%03d" % number + bytes(400))
    # Who appends is told before the segment that was rolled is sealed.
    wait_until(lambda: store.partition().flush_state == IDLE)
    return store


def test_damage_in_a_sealed_segment_is_found_and_nothing_is_changed(make: Make) -> None:
    store = filled(make)
    sealed = store.files(".log")[1]
    flip(sealed, 700)
    before = store.contents()
    scrubber = Scrubber(lambda: [store.partition()], 0, 1000)
    assert scrubber.scrub() == 1
    [damage] = [damage for segment in store.partition().segments for damage in segment.damages]
    assert store.partition().segments[1].base_offset <= damage.first_offset < damage.end_offset
    assert damage.end_offset == damage.first_offset + 1
    assert store.contents() == before
    assert scrubber.scrub() == 1  # known, not counted again


def test_a_whole_log_has_no_damage_and_all_sealed_bytes_are_read(make: Make) -> None:
    store = filled(make)
    scrubber = Scrubber(lambda: [store.partition()], 0, 1000)
    assert scrubber.scrub() == 0
    assert scrubber.bytes_scrubbed == sum(segment.size for segment in store.partition().segments[:-1])
    assert scrubber.passes == 1


def test_it_keeps_to_its_rate(make: Make) -> None:
    store = filled(make)
    scrubber = Scrubber(lambda: [store.partition()], 40_000, 1000)
    began = time.monotonic()
    scrubber.scrub()
    assert time.monotonic() - began >= 0.8 * scrubber.bytes_scrubbed / 40_000


def test_a_stop_does_not_wait_for_the_end_of_a_slow_pass(make: Make) -> None:
    store = filled(make)
    scrubber = Scrubber(lambda: [store.partition()], 1, 1)
    scrubber.start()
    time.sleep(0.05)
    stopper = threading.Thread(target=scrubber.stop)
    stopper.start()
    stopper.join(10)
    assert not stopper.is_alive()


def test_a_rate_of_nothing_turns_it_off(make: Make) -> None:
    scrubber = Scrubber(lambda: pytest.fail("nobody asked for it"), 0, 1)
    scrubber.start()
    time.sleep(0.05)
    scrubber.stop()
    assert scrubber.passes == 0
