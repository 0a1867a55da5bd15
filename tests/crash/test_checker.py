"""The checker itself: good histories pass, and there is a bad one for each thing that it must see."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import history
from .checker import INVARIANTS, check
from .scribe import Scribe, value_of
from .values import identity_of, make

Script = Callable[[Scribe], None]


# -- good histories -----------------------------------------------------------------------------


def an_ordinary_day(h: Scribe) -> None:
    h.produce("0", "1", base=0)
    h.produce("2", base=2, acks=1)
    h.produce("3", how="info")
    h.produce("4", how="fail")
    h.produce("5", acks=0)
    tail = h.stream(-1)
    h.read(tail, (0, "0"), (1, "1"), hw=3)
    h.read(tail, (2, "2"), (3, "3"))
    h.offsets(hw=4)
    h.drain("0", "1", "2", "3", "5")


def records_below_the_log_start_may_be_gone(h: Scribe) -> None:
    h.produce("0", "1", "2", base=0)
    h.delete_records(2)
    h.drain("2", start=2)


def a_log_start_whose_outcome_is_unknown_may_have_moved(h: Scribe) -> None:
    h.produce("0", "1", "2", base=0)
    h.delete_records(2, how="info")
    h.drain("2", start=2)


def an_unanswered_call_may_be_served_late(h: Scribe) -> None:
    h.produce("0", how="info")
    h.produce("1", base=0)
    h.drain("1", "0")


def a_repeat_gets_the_first_answer(h: Scribe) -> None:
    first = h.produce("0", base=0, idempotent=True)
    h.produce("0", base=0, idempotent=True, repeat=first)
    h.drain("0")


def a_partition_that_the_server_chose(h: Scribe) -> None:
    h.produce("0", base=0, partition=-1)
    h.drain("0")


def damage_done_on_purpose_may_be_missing(h: Scribe) -> None:
    h.produce("0", "1", "2", base=0)
    h.note("damage", topic="t", partition=0, first=1, last=1)
    h.drain_of([[0, value_of("0"), 1], [2, value_of("2"), 1]], start=0, hw=3, losses=[[1, 1]])


def acks_1_promises_nothing_through_a_power_cut(h: Scribe) -> None:
    h.produce("0", base=0)
    h.produce("1", base=1, acks=1)
    h.note("power_cut")
    h.produce("2", base=1)
    h.drain("0", "2")


def a_commit_of_unknown_outcome_may_show_or_not(h: Scribe) -> None:
    h.set(5)
    h.set(9, how="info")
    h.get(5)
    h.get(9)
    h.get(5)  # the server had not come to it when it was asked first


def a_commit_of_unknown_outcome_may_show_after_a_kill(h: Scribe) -> None:
    h.set(5)
    h.set(9, how="info")
    h.note("down")
    h.get(9)
    h.set(7)
    h.get(7)


def a_group_starts_at_its_commit(h: Scribe) -> None:
    h.produce("0", "1", base=0)
    h.set(1)
    group = h.stream(0, group="g", key="k")
    h.read(group, (1, "1"))
    h.drain("0", "1")


def times_are_right(h: Scribe) -> None:
    h.produce("0", "1", "2", base=0)
    op = h.invoke("a", "find_time", topic="t", partition=0, time=1001)
    h.note("ok", op=op, offset=1, timestamp=1001)
    h.drain("0", "1", "2")
    answers = [[0, 0, 1000], [1001, 1, 1001], [1002, 2, 1002], [1003, -1, -1]]
    h.note("times", name="end", topic="t", partition=0, answers=answers)


def recovery_is_repeatable(h: Scribe) -> None:
    h.note("digest", name="copy", files={"a": "1"})
    h.note("digest", name="copy", files={"a": "1"})


def producers_proceed(h: Scribe) -> None:
    h.produce("0", base=0)
    h.note("fault", what="kill")
    h.time = 10
    h.note("healed", what="kill")
    h.time = 13
    h.produce("1", base=1)
    h.time = 16
    h.note("fault", what="kill")
    h.time = 17
    h.note("healed", what="kill")
    h.time = 19
    h.note("fault", what="kill")  # two seconds were not enough to ask for progress
    h.drain("0", "1")


GOOD: list[Script] = [
    an_ordinary_day,
    records_below_the_log_start_may_be_gone,
    a_log_start_whose_outcome_is_unknown_may_have_moved,
    an_unanswered_call_may_be_served_late,
    a_repeat_gets_the_first_answer,
    a_partition_that_the_server_chose,
    damage_done_on_purpose_may_be_missing,
    acks_1_promises_nothing_through_a_power_cut,
    a_commit_of_unknown_outcome_may_show_or_not,
    a_commit_of_unknown_outcome_may_show_after_a_kill,
    a_group_starts_at_its_commit,
    times_are_right,
    recovery_is_repeatable,
    producers_proceed,
]


@pytest.mark.parametrize("script", GOOD, ids=lambda script: script.__name__)
def test_a_good_history_passes(script: Script) -> None:
    scribe = Scribe()
    script(scribe)
    assert check(history.numbered(scribe.events)) == []


# -- bad histories ------------------------------------------------------------------------------


def an_acknowledged_record_is_lost(h: Scribe) -> None:
    h.produce("0", base=0)
    h.produce("1", base=1)
    h.drain("0")


def a_record_written_at_acks_1_is_lost_by_a_kill(h: Scribe) -> None:
    h.produce("0", base=0, acks=1)
    h.note("down")
    h.drain()


def a_record_that_was_read_is_lost(h: Scribe) -> None:
    h.produce("0", base=0)
    h.produce("1", how="info")
    h.read(h.stream(0), (0, "0"), (1, "1"))
    h.drain("0")


def an_acknowledged_record_has_another_place(h: Scribe) -> None:
    h.produce("0", base=1)
    h.produce("1", how="info")
    h.drain("0", "1")


def a_topic_is_gone(h: Scribe) -> None:
    h.produce("0", base=0)


def a_second_drain_lacks_what_the_first_had(h: Scribe) -> None:
    h.produce("0", "1", base=0)
    h.drain("0", "1")
    h.drain("0", name="again", hw=1)


def a_value_is_there_twice(h: Scribe) -> None:
    h.produce("0", base=0, idempotent=True)
    h.drain("0", "0")


def a_value_that_nobody_sent(h: Scribe) -> None:
    h.produce("0", base=0)
    h.drain("0", "q7")


def a_value_that_is_not_whole(h: Scribe) -> None:
    h.produce("0", base=0)
    h.read(h.stream(0), (0, "?00ff"))
    h.drain("0")


def a_definite_failure_is_read(h: Scribe) -> None:
    h.produce("0", base=0)
    h.produce("1", how="fail")
    h.drain("0", "1")


def a_value_in_a_partition_that_it_was_not_sent_to(h: Scribe) -> None:
    h.produce("0", how="info", partition=1)
    h.drain("0")


def a_fenced_producer_writes(h: Scribe) -> None:
    h.produce("0", base=0, fenced=True)
    h.drain("0")


def a_producers_sequences_are_forgotten(h: Scribe) -> None:
    h.produce("0", base=0, idempotent=True)
    h.produce("1", how="fail", idempotent=True, reason="OUT_OF_ORDER_SEQUENCE")
    h.drain("0")


def a_hole_in_a_partition(h: Scribe) -> None:
    h.produce("0", base=0)
    h.produce("2", base=2)
    h.drain_of([[0, value_of("0"), 1], [2, value_of("2"), 1]], start=0, hw=3)


def records_missing_at_the_end(h: Scribe) -> None:
    h.produce("0", base=0)
    h.drain("0", hw=2)


def records_that_cannot_be_read_though_nobody_damaged_them(h: Scribe) -> None:
    h.produce("0", base=0)
    h.produce("1", how="info")
    h.drain("0", hw=2, losses=[[1, 1]])


def a_producers_records_out_of_order(h: Scribe) -> None:
    h.produce("0", base=1)
    h.produce("1", how="info")
    h.drain("1", "0")


def a_streams_records_out_of_order(h: Scribe) -> None:
    h.produce("0", how="info", stream="s")
    h.produce("1", how="info", stream="s")
    h.drain("1", "0")


def two_values_at_one_offset(h: Scribe) -> None:
    h.produce("0", base=0)
    h.produce("1", base=0)
    h.drain("0", "1")


def a_read_and_a_drain_differ(h: Scribe) -> None:
    h.produce("0", how="info")
    h.produce("1", how="info")
    h.read(h.stream(0), (0, "1"))
    h.drain("0", "1")


def a_consumer_skips_a_record(h: Scribe) -> None:
    h.produce("0", "1", "2", base=0)
    h.read(h.stream(0), (0, "0"), (2, "2"))
    h.drain("0", "1", "2")


def a_consumer_skips_a_record_between_responses(h: Scribe) -> None:
    h.produce("0", "1", "2", base=0)
    stream = h.stream(0)
    h.read(stream, (0, "0"), hw=3)
    h.read(stream, (2, "2"))
    h.drain("0", "1", "2")


def a_consumer_begins_at_another_place(h: Scribe) -> None:
    h.produce("0", "1", base=0)
    h.read(h.stream(0), (1, "1"))
    h.drain("0", "1")


def a_consumer_goes_back(h: Scribe) -> None:
    h.produce("0", "1", base=0)
    h.read(h.stream(0), (0, "0"), (1, "1"), (0, "0"), hw=2)
    h.drain("0", "1")


def the_high_watermark_goes_back(h: Scribe) -> None:
    h.produce("0", "1", base=0)
    h.offsets(hw=2)
    h.note("down")
    h.offsets(hw=0)
    h.drain("0", "1")


def an_acknowledged_record_is_not_readable(h: Scribe) -> None:
    h.produce("0", base=0)
    h.offsets(hw=0)
    h.drain("0")


def a_position_is_out_of_range_after_a_restart(h: Scribe) -> None:
    h.produce("0", how="info")
    h.note("out_of_range", op=h.stream(1), position=1, hw=0, start=0)
    h.drain("0")


def a_record_is_shown_above_the_high_watermark(h: Scribe) -> None:
    h.produce("0", base=0)
    h.read(h.stream(0), (0, "0"), hw=0)
    h.drain("0")


def a_read_to_the_end_ends_early(h: Scribe) -> None:
    h.produce("0", "1", base=0)
    stream = h.stream(0, until_end=True)
    h.read(stream, (0, "0"), hw=2)
    h.note("ok", op=stream, position=1)
    h.drain("0", "1")


def the_log_start_goes_back(h: Scribe) -> None:
    h.produce("0", "1", base=0)
    h.delete_records(1)
    h.note("down")
    h.offsets(hw=2)
    h.drain("1", start=1)


def the_log_start_moves_unasked(h: Scribe) -> None:
    h.produce("0", "1", base=0)
    h.drain("1", start=1)


def a_commit_is_lost(h: Scribe) -> None:
    h.set(5)
    h.set(9)
    h.note("down")
    h.get(5)


def a_commit_of_unknown_outcome_goes_back_after_a_later_one(h: Scribe) -> None:
    h.set(5, how="info")
    h.note("down")
    h.set(9)
    h.get(5)


def a_commit_has_a_value_that_was_never_set(h: Scribe) -> None:
    h.set(5)
    h.get(6)


def a_group_starts_below_its_commit(h: Scribe) -> None:
    h.produce("0", "1", base=0)
    h.set(1)
    h.read(h.stream(0, group="g", key="k"), (0, "0"))
    h.drain("0", "1")


def an_answer_by_time_is_wrong_by_one(h: Scribe) -> None:
    h.produce("0", "1", "2", base=0)
    h.drain("0", "1", "2")
    h.note("times", name="end", topic="t", partition=0, answers=[[1001, 2, 1002]])


def an_answer_by_time_skips_while_others_write(h: Scribe) -> None:
    h.produce("0", "1", "2", base=0)
    op = h.invoke("a", "find_time", topic="t", partition=0, time=1001)
    h.note("ok", op=op, offset=2, timestamp=1002)
    h.drain("0", "1", "2")


def an_answer_by_time_finds_nothing_though_there_is_something(h: Scribe) -> None:
    h.produce("0", base=0)
    h.drain("0")
    h.note("times", name="end", topic="t", partition=0, answers=[[1000, -1, -1]])


def a_second_recovery_changes_a_file(h: Scribe) -> None:
    h.note("digest", name="copy", files={"a": "1", "b": "1"})
    h.note("digest", name="copy", files={"a": "1", "b": "2"})


def a_producer_is_stuck_after_the_fault(h: Scribe) -> None:
    h.produce("0", base=0)
    h.produce("0", base=1, who="q")
    h.note("fault", what="kill")
    h.time = 1
    h.note("healed", what="kill")
    h.time = 2
    h.produce("1", base=2)
    h.produce("1", how="open", who="q")
    h.time = 7
    h.note("stopping")
    h.drain("0", "q0", "1")


def the_server_ends_by_itself(h: Scribe) -> None:
    h.note("unexpected", text="the server ended with code 1")


def a_stop_takes_too_long(h: Scribe) -> None:
    h.note("exit", code=0, seconds=11.0)


def a_torn_tail_is_not_kept(h: Scribe) -> None:
    h.note("cut", bytes=100, kept=0)


BAD: list[tuple[int, Script]] = [
    (0, the_server_ends_by_itself),
    (0, a_stop_takes_too_long),
    (0, a_torn_tail_is_not_kept),
    (1, an_acknowledged_record_is_lost),
    (1, a_record_written_at_acks_1_is_lost_by_a_kill),
    (1, a_record_that_was_read_is_lost),
    (1, an_acknowledged_record_has_another_place),
    (1, a_topic_is_gone),
    (1, a_second_drain_lacks_what_the_first_had),
    (2, a_value_is_there_twice),
    (2, a_value_that_nobody_sent),
    (2, a_value_that_is_not_whole),
    (2, a_definite_failure_is_read),
    (2, a_value_in_a_partition_that_it_was_not_sent_to),
    (2, a_fenced_producer_writes),
    (2, a_producers_sequences_are_forgotten),
    (3, a_hole_in_a_partition),
    (3, records_missing_at_the_end),
    (3, records_that_cannot_be_read_though_nobody_damaged_them),
    (3, a_producers_records_out_of_order),
    (3, a_streams_records_out_of_order),
    (4, two_values_at_one_offset),
    (4, a_read_and_a_drain_differ),
    (5, a_consumer_skips_a_record),
    (5, a_consumer_skips_a_record_between_responses),
    (5, a_consumer_begins_at_another_place),
    (5, a_consumer_goes_back),
    (5, the_high_watermark_goes_back),
    (5, an_acknowledged_record_is_not_readable),
    (5, a_position_is_out_of_range_after_a_restart),
    (5, a_record_is_shown_above_the_high_watermark),
    (5, a_read_to_the_end_ends_early),
    (5, the_log_start_goes_back),
    (5, the_log_start_moves_unasked),
    (6, a_commit_is_lost),
    (6, a_commit_of_unknown_outcome_goes_back_after_a_later_one),
    (6, a_commit_has_a_value_that_was_never_set),
    (6, a_group_starts_below_its_commit),
    (7, an_answer_by_time_is_wrong_by_one),
    (7, an_answer_by_time_skips_while_others_write),
    (7, an_answer_by_time_finds_nothing_though_there_is_something),
    (8, a_second_recovery_changes_a_file),
    (9, a_producer_is_stuck_after_the_fault),
]


@pytest.mark.parametrize(("invariant", "script"), BAD, ids=lambda each: getattr(each, "__name__", str(each)))
def test_a_bad_history_is_seen(invariant: int, script: Script) -> None:
    scribe = Scribe()
    script(scribe)
    found = check(history.numbered(scribe.events))
    assert invariant in {violation.invariant for violation in found}
    assert all(violation.events for violation in found), "it shows the records of the history concerned"


def test_there_is_a_bad_history_for_each_invariant() -> None:
    assert {invariant for invariant, _ in BAD} == set(INVARIANTS)


def test_a_value_that_lost_a_byte_or_had_one_flipped_is_not_whole() -> None:
    identity, value = make("p1", 7, b"some/padding")
    assert identity_of(value) == identity
    assert identity_of(None).startswith("?")
    for n in range(len(value)):
        flipped = value[:n] + bytes([value[n] ^ 1]) + value[n + 1 :]
        assert identity_of(flipped) != identity
        assert identity_of(value[:n]) != identity
