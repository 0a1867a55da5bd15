"""Planted bugs: what the checker has to catch.

Each is a function that changes the product in this process, before it is used. They need the debug
build and refuse any other.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from takhin import _os, metadata_store
from takhin._fastlog import Batches
from takhin.engine import local
from takhin.server.produce_stream import ProduceStream
from takhin.storage import file_flush, flush_goal, flusher, group_flush, partition, producers, reader, recovery, segment
from takhin.storage.checkpointer import Checkpointer

from .disk import replace

Plant = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    plant: Plant
    #: The scenario that shows it; empty: a run of the driver does.
    scenario: str
    #: The invariant of the checker that it must break; it may break more.
    breaks: int

    @property
    def name(self) -> str:
        return self.plant.__name__

    @property
    def what(self) -> str:
        return (self.plant.__doc__ or "").strip()


MUTANTS: dict[str, Mutant] = {}


def mutant(scenario: str, breaks: int) -> Callable[[Plant], Plant]:
    def note(plant_: Plant) -> Plant:
        MUTANTS[plant_.__name__] = Mutant(plant_, scenario, breaks)
        return plant_

    return note


def plant(name: str) -> None:
    """Change the product. Raises ``RuntimeError`` in any build but the debug build, ``KeyError``."""
    if not _os.DEBUG:
        raise RuntimeError("bugs are planted in the debug build only")
    MUTANTS[name].plant()


def _files(*modules: Any, **methods: Any) -> None:
    """Give the modules segment files with other methods, each called with the class below it first."""
    for module in modules:
        below = module.SegmentFile
        made = {name: _bound(method, below) for name, method in methods.items()}
        replace(module, "SegmentFile", type("MutantFile", (below,), made))


def _bound(method: Any, below: Any) -> Any:
    return lambda self, *args, **kwargs: method(below, self, *args, **kwargs)


# -- answers and flushes --------------------------------------------------------------------------


@mutant("power_cut_after_an_answer", 1)
def answer_before_the_flush() -> None:
    """acks -1 is answered when the batch is written."""

    def append(self: Any, batch: Any, durable_done: Any, **more: Any) -> Any:
        placed = original(self, batch, (lambda outcome: None) if durable_done else None, **more)
        if durable_done:
            durable_done(placed)
        return placed

    original = replace(partition.Partition, "append", append)


@mutant("written_and_killed", 1)
def answer_before_the_write() -> None:
    """A batch stays in the process until the next one or a flush."""
    waiting: dict[int, Any] = {}

    def append(below: Any, self: Any, *what: Any) -> None:
        write(below, self)
        waiting[id(self)] = what

    def write(below: Any, self: Any) -> None:
        what = waiting.pop(id(self), None)
        if what is not None:
            below.append(self, *what)

    def flush(below: Any, self: Any) -> None:
        write(below, self)
        below.flush(self)

    _files(segment, append=append, flush=flush)


@mutant("power_cut_after_a_roll", 1)
def skip_the_directory_flush() -> None:
    """The directory is not flushed after a segment was made in it."""
    replace(flush_goal, "sync_dir", lambda path: None)


@mutant("power_cut_with_a_roll_under_way", 1)
def flush_the_active_segment_only() -> None:
    """What a roll left unflushed in the old segment stays so."""

    def roll(self: Any) -> Any:
        made = original(self)
        self._rolled = []
        return made

    original = replace(partition.Partition, "_roll", roll)


@mutant("a_flush_fails", 1)
def try_a_failed_flush_again() -> None:
    """A flush that fails is tried once more, and believed."""

    def flush(below: Any, self: Any) -> None:
        try:
            below.flush(self)
        except OSError:
            below.flush(self)

    _files(segment, recovery, flush=flush)
    replace(file_flush, "flush_files", lambda files: [flush(segment.SegmentFile, file) for file in files])


@mutant("power_cut_with_unflushed_records", 1)
def show_unflushed_records() -> None:
    """The high watermark is the log end, flushed or not."""

    def append(self: Any, batch: Any, durable_done: Any, **more: Any) -> Any:
        placed = original(self, batch, durable_done, **more)
        self.high_watermark = self.log_end_offset
        return placed

    original = replace(partition.Partition, "append", append)


def _mark(partitions: Any) -> list[Any]:
    goals = [(each, goal) for each in partitions if (goal := each.flush_goal()) is not None]
    for each, goal in goals:
        each.goal_reached(goal)
    return [goal for _, goal in goals]


@mutant("power_cut_while_many_are_flushed_at_once", 1)
def mark_a_group_before_its_flush() -> None:
    """Partitions that are flushed together are marked, and answered, before the call that flushes them."""

    def flush(self: Any, partitions: Any) -> None:
        _mark(partitions)
        group_flush.syncfs(self._fd)

    replace(group_flush.GroupFlush, "flush", flush)


@mutant("power_cut_while_several_are_flushed_with_one_call", 1)
def mark_several_before_their_flush() -> None:
    """Partitions whose files are flushed with one call are marked, and answered, before it."""

    def flush(self: Any, partitions: Any) -> None:
        file_flush.flush_files([goal.active.file() for goal in _mark(partitions)])

    replace(file_flush.FileFlush, "flush", flush)


@mutant("power_cut_after_a_checkpoint", 3)
def recovery_point_above_the_flush() -> None:
    """A checkpoint does not wait until what it speaks of is flushed."""

    replace(Checkpointer, "_is_flushed", staticmethod(lambda partition, entry: True))


@mutant("power_cut_with_unflushed_records", 3)
def hint_before_the_flush() -> None:
    """The flushed offset is noted before the flush that it speaks of."""

    def flush_goal(self: Any) -> Any:
        self.environment.hints.write([(self.topic_id, self.partition, self.log_end_offset)])
        return original(self)

    original = replace(partition.Partition, "flush_goal", flush_goal)


# -- recovery -------------------------------------------------------------------------------------


def _cut_last_batch(self: Any, found: Any) -> int:
    """From a segment that recovery has read; gives its new end offset."""
    file, position, last = found.open_file, 0, None
    while position < found.size:
        last = file.head(position, found.size)
        position += last.size
    if last is None:
        return int(found.next_offset)
    file.truncate(last.position)
    found.size, found.next_offset = last.position, last.base_offset
    self.known_flushed = min(self.known_flushed, last.base_offset)
    return int(last.base_offset)


@mutant("kill_with_a_torn_tail", 1)
def cut_one_batch_too_much() -> None:
    """With a torn tail goes the batch before it."""

    def scan(self: Any, *args: Any) -> Any:
        found, expected, torn = original(self, *args)
        return found, _cut_last_batch(self, found) if torn else expected, torn

    original = replace(recovery.Recovery, "_scan", scan)


@mutant("kill_with_a_torn_tail", 8)
def every_recovery_cuts() -> None:
    """Each recovery takes the last batch, so that a second one leaves less than the first."""

    def scan(self: Any, base_offset: int, size: int, last: bool) -> Any:
        found, expected, torn = original(self, base_offset, size, last)
        return found, _cut_last_batch(self, found) if last else expected, torn

    original = replace(recovery.Recovery, "_scan", scan)


@mutant("kill_with_a_torn_tail", 0)
def throw_the_torn_tail_away() -> None:
    """What recovery cuts is not kept in quarantine."""

    def cut(quarantine: Any, name: str, base_offset: int, file: Any, position: int) -> Any:
        file.truncate(position)
        return quarantine / "nothing"

    replace(recovery, "keep_and_cut", cut)


@mutant("kill_with_a_hole_in_the_tail", 3)
def ignore_a_checksum_in_recovery() -> None:
    """A batch whose length fits is taken for good."""

    def scan(below: Any, self: Any, position: int, limit: int, expected: int, **more: Any) -> Any:
        status, position, expected = below.scan(self, position, limit, expected, **more)
        while status < 0:
            head = self.head(position, limit)
            if head is None or head.magic != 2 or head.size > limit - position:
                break
            status, position, expected = below.scan(self, position + head.size, limit, head.last_offset + 1, **more)
        return status, position, expected

    _files(recovery, scan=scan)


@mutant("a_byte_flips_before_a_restart", 1)
def cut_at_corruption() -> None:
    """Flushed bytes that fail their checks are taken for a torn tail, with all that follows."""

    def init(self: Any, *args: Any, **more: Any) -> None:
        original(self, *args, **more)
        self.known_flushed = 0

    original = replace(recovery.Recovery, "__init__", init)


@mutant("a_restart", 4)
def give_an_offset_twice() -> None:
    """After a restart the last offset is given once more."""

    def run(self: Any) -> Any:
        found = original(self)
        found.log_end_offset = max(found.log_end_offset - 1, 0)
        return found

    original = replace(recovery.Recovery, "run", run)


@mutant("a_restart", 5)
def high_watermark_goes_back() -> None:
    """After a restart nothing is readable until the first flush."""

    def init(self: Any, *args: Any, **more: Any) -> None:
        original(self, *args, **more)
        self.high_watermark = self.log_start_offset

    original = replace(partition.Partition, "__init__", init)


@mutant("going_on_after_a_fault", 9)
def stuck_after_a_restart() -> None:
    """The flusher's threads are not started where there are partitions already."""

    def start(self: Any) -> None:
        if not restarted:
            restarted.append(True)
            original(self)

    restarted: list[bool] = []
    original = replace(flusher.Flusher, "start", start)


# -- reading --------------------------------------------------------------------------------------


@mutant("a_byte_flips_under_a_reader", 2)
def ignore_a_checksum_on_read() -> None:
    """A batch whose length fits is given to the reader."""

    def read(
        below: Any, self: Any, position: int, limit: int, expected: int, next_offset: int, *more: Any, **options: Any
    ) -> Any:
        found = below.read(self, position, limit, expected, next_offset, *more, **options)
        batches, status, at, _ = found
        head = self.head(at, limit)
        if batches is not None or status >= 0 or head is None or head.magic != 2 or head.size > limit - at:
            return found
        return Batches(self.pread(at, head.size), next_offset, more[0]), 0, at + head.size, head.last_offset + 1

    _files(segment, read=read)


@mutant("an_index_entry_is_wrong", 5)
def trust_an_index() -> None:
    """Neither the sums of an index file nor what its entries point at are looked at."""

    def load(self: Any, index: Any, summary: Any, limit: int) -> bool:
        offsets = self._read_small(".index", summary.offset_count * 8)
        times = self._read_small(".timeindex", summary.time_count * 12)
        return bool(index.load(offsets, times, limit, summary.max_timestamp, summary.offset_of_max_timestamp))

    def locate(self: Any, offset: int) -> tuple[int, int]:
        entry = self.index().floor(offset)
        if entry is None:
            return 0, self.base_offset
        head = self.file().head(entry[1], self.size)
        return entry[1], head.base_offset

    replace(segment.Segment, "load_index_files", load)
    replace(segment.Segment, "locate", locate)


@mutant("many_segments", 5)
def skip_at_a_segment_boundary() -> None:
    """A reader that goes on to the next segment passes over its first batch."""

    def enter(self: Any, following: Any) -> Any:
        found = original(self, following)
        head = following.file().head(0, following.size)
        if head is not None:
            self._position, self._expected = head.size, head.last_offset + 1
        return found

    original = replace(reader.PartitionReader, "_enter", enter)


@mutant("many_segments", 7)
def time_off_by_one() -> None:
    """The record after the one that was asked for by time."""

    def find(at: Any, timestamp: int) -> Any:
        found = original(at, timestamp)
        return None if found is None else (found[0] + 1, found[1])

    original = replace(local, "find_time", find)


# -- producers ------------------------------------------------------------------------------------


@mutant("repeats_and_a_kill", 2)
def forget_sequences() -> None:
    """After a restart nobody knows what an idempotent producer had written."""

    def init(self: Any, states: Any = ()) -> None:
        original(self)

    original = replace(producers.Producers, "__init__", init)
    replace(producers.Producers, "replay", lambda self, batches: None)


@mutant("the_next_epoch", 2)
def forget_the_fence() -> None:
    """A producer's older epoch may go on writing."""
    replace(local.LocalEngine, "_check_producer", lambda self, producer: None)


@mutant("repeats_and_a_kill", 4)
def answer_a_repeat_with_the_end() -> None:
    """The answer to a repeat is the log's end, not the first answer."""

    def repeat(self: Any, base_offset: int, count: int, timestamp: int, durable_done: Any) -> Any:
        ahead = self.log_end_offset - base_offset

        def moved(placed: Any) -> Any:
            return placed._replace(base_offset=placed.base_offset + ahead, last_offset=placed.last_offset + ahead)

        done = (lambda placed: durable_done(moved(placed))) if durable_done else None
        return moved(original(self, base_offset, count, timestamp, done))

    original = replace(partition.Partition, "_repeat", repeat)


@mutant("", 4)
def answers_out_of_order() -> None:
    """A produce stream gives its answers as they come, not in the order of the requests."""

    def step(self: Any) -> Any:
        with self._lock:
            ready = [answer for answer in self._answers if answer.outcome is not None]
            self._answers = deque([*ready, *(answer for answer in self._answers if answer.outcome is None)])
        return original_step(self)

    def settle(self: Any, answer: Any, outcome: Any) -> bool:
        original_settle(self, answer, outcome)
        return not answer.in_append

    def take(self: Any, data: bytes) -> None:
        original_take(self, data)
        self.run_here()

    original_step = replace(ProduceStream, "step", step)
    original_settle = replace(ProduceStream, "settle", settle)
    original_take = replace(ProduceStream, "_take", take)


# -- metadata -------------------------------------------------------------------------------------


@mutant("commits_and_a_kill", 6)
def answer_a_commit_before_the_database() -> None:
    """A commit is answered, and shown, before SQLite has it."""

    def commit(self: Any, changes: Any) -> None:
        if any(key[0] == "committed_offsets" for key, _, _ in changes):
            threading.Thread(target=lambda: (time.sleep(0.5), original(self, changes)), daemon=True).start()
        else:
            original(self, changes)

    original = replace(metadata_store.MetadataStore, "commit", commit)


@mutant("commits_and_a_kill", 6)
def commit_the_first_only() -> None:
    """Of several offsets in one commit, the first is kept."""

    def commit(self: Any, group_id: str, offsets: Any) -> None:
        original(self, group_id, list(offsets)[:1])

    original = replace(local.LocalEngine, "commit_offsets", commit)


@mutant("records_are_deleted", 5)
def log_start_not_durable() -> None:
    """delete_records moves the log start in memory only."""

    def open_topics(self: Any) -> None:
        original(self)
        self._manager.environment.save_log_start = lambda topic_id, partition, offset: None

    original = replace(local.LocalEngine, "_open_topics", open_topics)


@mutant("a_topic_comes_and_goes", 6)
def a_deleted_topic_comes_back() -> None:
    """A topic's deletion does not reach the database."""

    def delete(self: Any, name: str) -> None:
        kept = self._metadata
        self._metadata = _Forgetful()
        try:
            original(self, name)
        finally:
            self._metadata = kept

    original = replace(local.LocalEngine, "delete_topic", delete)


class _Forgetful:
    def mark_deleting(self, topic_id: str) -> None: ...

    def forget_topic(self, topic_id: str) -> None: ...
