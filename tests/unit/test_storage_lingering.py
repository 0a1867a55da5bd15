"""When partitions are flushed whose records nobody waits for: after the linger, and as many as can be paid for."""

from __future__ import annotations

import time

import pytest

from takhin.storage import lingering as module
from takhin.storage.lingering import EARNED, LATEST_S, MOST_S, PERIOD_S, Lingering

LINGER_S = 0.01


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def lingering(asked: frozenset[int] = frozenset()) -> Lingering[int]:
    return Lingering(LINGER_S, lambda partition: partition not in asked)


def test_each_is_due_after_the_linger(clock: Clock) -> None:
    lazy = lingering()
    assert lazy.wait_s() is None
    lazy.add(1, False)
    clock.now += 0.004
    lazy.add(2, False)
    assert lazy.wait_s() == pytest.approx(0.006)
    clock.now += 0.007
    assert lazy.wait_s() == 0
    assert lazy.take(0.001) == [1]
    assert len(lazy) == 1
    assert lazy.wait_s() == pytest.approx(0.003)
    clock.now += 0.004
    assert lazy.take(0.001) == [2]
    assert lazy.wait_s() is None


def test_one_that_is_added_again_keeps_its_time(clock: Clock) -> None:
    lazy = lingering()
    lazy.add(1, False)
    clock.now += 0.009
    lazy.add(1, False)
    assert lazy.wait_s() == pytest.approx(0.001)


def test_who_was_asked_for_meanwhile_is_left_out_and_costs_nothing(clock: Clock) -> None:
    lazy = lingering(asked=frozenset(range(0, 800, 2)))
    for n in range(800):
        lazy.add(n, False)
    clock.now += LINGER_S
    assert lazy.take(MOST_S / 400) == list(range(1, 800, 2))
    assert lazy.take_all() == []


def test_after_a_rest_many_can_be_paid_for_and_then_a_share_of_the_time(clock: Clock) -> None:
    lazy = lingering()
    for n in range(10_000):
        lazy.add(n, False)
    clock.now += LINGER_S
    each = 0.0005
    first = lazy.take(each)
    assert len(first) == MOST_S / each
    assert first == list(range(len(first)))
    taken, seconds = len(first), 0.0
    while seconds < 2:
        wait = lazy.wait_s()
        assert wait is not None
        if wait > 0:
            assert wait >= PERIOD_S
            clock.now += wait
            seconds += wait
        taken += len(lazy.take(each))
    assert taken == pytest.approx((MOST_S + EARNED * 2) / each, rel=0.1)


def test_a_single_slow_flush_is_paid_for_afterwards(clock: Clock) -> None:
    lazy = lingering()
    lazy.add(1, False)
    clock.now += LINGER_S
    assert lazy.take(0.05) == [1]
    lazy.add(2, False)
    clock.now += LINGER_S
    assert lazy.take(0.5) == [2], "there was some credit"
    lazy.add(3, False)
    clock.now += LINGER_S
    wait = lazy.wait_s()
    assert wait == PERIOD_S
    assert lazy.take(0.5) == []
    clock.now += MOST_S / EARNED
    assert lazy.wait_s() == 0
    assert lazy.take(0.5) == [3]


def test_those_with_much_to_write_need_no_credit_and_overtake(clock: Clock) -> None:
    lazy = lingering()
    for n in range(12):
        lazy.add(n, n == 9)
        clock.now += 0.0001
    assert lazy.needs_no_credit(9)
    assert not lazy.needs_no_credit(7)
    lazy.add(7, True)
    assert lazy.needs_no_credit(7)
    lazy.add(7, False)
    assert lazy.needs_no_credit(7), "a partition does not get less to write"
    assert len(lazy) == 12
    clock.now += LINGER_S
    assert lazy.take(1.0) == [9, 7, 0]
    assert lazy.take(1.0) == []
    assert lazy.wait_s() == PERIOD_S
    lazy.add(7, True)
    assert lazy.wait_s() == pytest.approx(min(LINGER_S, PERIOD_S))
    clock.now += LINGER_S
    assert lazy.wait_s() == 0
    assert lazy.take(1.0) == [7]


def test_one_that_comes_to_have_much_keeps_its_time(clock: Clock) -> None:
    lazy = lingering()
    lazy.add(1, False)
    clock.now += 0.009
    lazy.add(1, True)
    assert lazy.wait_s() == pytest.approx(0.001)
    assert lazy.take(0.001) == []
    clock.now += 0.002
    assert lazy.take(0.001) == [1]
    assert len(lazy) == 0


def test_one_with_much_that_was_asked_for_meanwhile_is_left_out(clock: Clock) -> None:
    lazy = lingering(asked=frozenset([1]))
    lazy.add(1, True)
    lazy.add(2, True)
    clock.now += LINGER_S
    assert lazy.take(0.001) == [2]
    assert len(lazy) == 0


def test_a_look_that_nobody_can_be_paid_for_goes_through_none(clock: Clock) -> None:
    asked: list[int] = []

    def still_lingers(partition: int) -> bool:
        asked.append(partition)
        return True

    lazy = Lingering(LINGER_S, still_lingers)
    for n in range(500):
        lazy.add(n, False)
    clock.now += LINGER_S
    assert lazy.take(1.0) == [0]
    asked.clear()
    assert lazy.take(1.0) == []
    assert len(asked) <= 1


def test_nobody_waits_longer_than_the_latest(clock: Clock) -> None:
    lazy = lingering()
    for n in range(1000):
        lazy.add(n, False)
    clock.now += LINGER_S
    most = 0
    began = clock.now
    while (wait := lazy.wait_s()) is not None:
        clock.now += wait
        most += len(lazy.take(0.1))
    assert most == 1000
    assert clock.now - began == pytest.approx(LATEST_S, abs=0.1)


def test_a_group_takes_all(clock: Clock) -> None:
    lazy = lingering(asked=frozenset([3]))
    for n in range(5):
        lazy.add(n, n == 1)
    assert lazy.take_all() == [0, 2, 4, 1]
    assert lazy.wait_s() is None


def test_one_look_goes_through_so_many_and_the_next_goes_on(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKS_AT_MOST", 3)
    lazy = lingering(asked=frozenset([1]))
    for n in range(7):
        lazy.add(n, False)
    clock.now += LINGER_S
    assert [lazy.take(0.001) for _ in range(3)] == [[0, 2], [3, 4, 5], [6]]
