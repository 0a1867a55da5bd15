"""Short plays on a stage, each written so that some mistakes cannot but show in its history.

A server without the mistake passes all of them: that is tested too.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

from takhin import _os
from takhin.engine.base import ProducerStamp
from takhin.storage import flusher, group_flush, others_writes

from .stage import TOPIC, Stage

Scenario = Callable[[Stage], None]

#: Seconds: what is not waited for is not yet done when a slow flush has just begun.
SLOW = 0.25
#: Base offset, length, ... of a record batch's header (docs/format.md).
_HEAD = struct.Struct(">qi")
_HEADER_BYTES = 61


def batches_of(path: Path) -> list[tuple[int, int, int]]:
    """(position, size, base offset) of the batches in a segment file."""
    data, position, found = path.read_bytes(), 0, []
    while position + _HEAD.size <= len(data):
        base_offset, length = _HEAD.unpack_from(data, position)
        found.append((position, 12 + length, base_offset))
        position += 12 + length
    return found


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 0xFF]))


def begin(stage: Stage, partitions: int = 1) -> None:
    stage.start()
    stage.create(partitions=partitions)


def finish(stage: Stage) -> None:
    """Somebody goes on, everything is read, and once more after another kill."""
    stage.offsets()
    stage.drain("before more")
    stage.produce(2)
    stage.read(stage.offsets()[0])
    stage.drain("after more")
    stage.kill()
    stage.start()
    stage.drain("after one more kill")
    stage.stop()


def power_cut_after_an_answer(stage: Stage) -> None:
    begin(stage)
    stage.disk.delay = SLOW
    stage.produce(3)
    stage.end_abruptly(power_cut=True)
    stage.start()
    finish(stage)


def power_cut_after_a_roll(stage: Stage) -> None:
    begin(stage)
    for _ in range(8):
        stage.produce(4)
    assert len(stage.segments()) > 2
    stage.end_abruptly(power_cut=True)
    stage.start()
    finish(stage)


def power_cut_with_a_roll_under_way(stage: Stage) -> None:
    """The old segment has bytes that no flush has seen when the new one is begun."""
    begin(stage)
    stage.produce(1)
    stage.disk.delay = 0.1
    for _ in range(5):
        stage.produce(4, acks=1)
    stage.produce(4)
    assert len(stage.segments()) > 2
    stage.end_abruptly(power_cut=True)
    stage.start()
    finish(stage)


def power_cut_with_unflushed_records(stage: Stage) -> None:
    """They were written, and a consumer looked for them, before any flush."""
    begin(stage)
    stage.produce(2)
    stage.settle()
    stage.disk.delay = SLOW
    stage.produce(3, acks=1)
    stage.read(0)
    stage.settle()
    stage.end_abruptly(power_cut=True)
    stage.start()
    finish(stage)


def power_cut_while_many_are_flushed_at_once(stage: Stage) -> None:
    """While one is being flushed, others ask: they are flushed together, and the power goes."""
    others_writes.FREE_BYTES = 1 << 60  # whatever else this machine writes
    group_flush.has_journal = lambda device: True  # and whatever it writes it to: the disk is simulated
    # Fewer than FEWEST may be taken before the others have asked: enough are left for a group.
    many = range(2 * flusher.FEWEST)
    begin(stage, partitions=len(many))
    stage.disk.delay = 2 * SLOW
    for partition in many:
        stage.produce(2, partition=partition, wait=False)
    until = time.monotonic() + 20
    while not stage.disk.syncs_begun and time.monotonic() < until:
        time.sleep(0.002)
    assert stage.disk.syncs_begun, "there was no group"
    time.sleep(0.05)
    stage.end_abruptly(power_cut=True)
    stage.start()
    stage.drain("after the cut", many)
    finish(stage)


def power_cut_while_several_are_flushed_with_one_call(stage: Stage) -> None:
    """The same where many cannot be flushed together: one call goes through their files."""
    group_flush.KERNEL = (1 << 30, 0)
    flusher.TOGETHER_S = 1e9
    many = range(flusher.FEWEST + 4)
    begin(stage, partitions=len(many))
    for partition in many:
        stage.produce(1, partition=partition)
    stage.settle()
    stage.disk.delay, before = 2 * SLOW, stage.disk.several_begun
    for partition in many:
        stage.produce(2, partition=partition, wait=False)
    until = time.monotonic() + 20
    while stage.disk.several_begun == before and time.monotonic() < until:
        time.sleep(0.002)
    assert stage.disk.several_begun > before, "no two were flushed with one call"
    time.sleep(0.05)
    stage.end_abruptly(power_cut=True)
    stage.start()
    stage.drain("after the cut", many)
    finish(stage)


def power_cut_after_a_checkpoint(stage: Stage) -> None:
    begin(stage)
    stage.produce(2)
    stage.settle()
    stage.disk.delay = SLOW
    stage.produce(3, acks=1)
    stage.engine._manager.write_checkpoint()
    stage.end_abruptly(power_cut=True)
    stage.start()
    finish(stage)


def a_flush_fails(stage: Stage) -> None:
    begin(stage)
    stage.produce(2)
    stage.settle()
    _os.plan_faults("flush:1:EIO")
    stage.produce(2)
    stage.produce(2)
    stage.read(0)
    _os.plan_faults("")
    stage.end_abruptly(power_cut=True)
    stage.start()
    finish(stage)


def kill_with_a_torn_tail(stage: Stage) -> None:
    """Half a batch lies at the end."""
    begin(stage)
    for _ in range(3):
        stage.produce(2)
    stage.kill()
    active = stage.segments()[-1]
    position, size, base = batches_of(active)[-1]
    torn = active.read_bytes()[position : position + size - 20]
    _start_with_tail(stage, active, _HEAD.pack(base + 2, size - 12) + torn[_HEAD.size :])


def kill_with_a_hole_in_the_tail(stage: Stage) -> None:
    """A batch lies at the end, whole by its length, with a hole in its records."""
    begin(stage)
    for _ in range(3):
        stage.produce(2)
    stage.kill()
    active = stage.segments()[-1]
    position, size, base = batches_of(active)[-1]
    batch = bytearray(active.read_bytes()[position : position + size])
    batch[: _HEAD.size] = _HEAD.pack(base + 2, size - 12)
    batch[_HEADER_BYTES + 5 : size - 20] = bytes(size - 25 - _HEADER_BYTES)
    _start_with_tail(stage, active, bytes(batch))


def _start_with_tail(stage: Stage, active: Path, tail: bytes) -> None:
    with active.open("ab") as file:
        file.write(tail)
    before = active.stat().st_size
    for _ in range(2):
        stage.recovered_digest("a torn tail")
    stage.start()
    stage.offsets()
    kept = sum(path.stat().st_size for path in (stage.data / "quarantine").rglob("*") if path.is_file())
    stage.history.note("cut", bytes=before - active.stat().st_size, kept=kept)
    finish(stage)


def a_byte_flips_under_a_reader(stage: Stage) -> None:
    begin(stage)
    for _ in range(3):
        stage.produce(2)
    _damage(stage, 1)
    stage.read(0)
    stage.drain()
    stage.stop()


def a_byte_flips_before_a_restart(stage: Stage) -> None:
    begin(stage)
    for _ in range(4):
        stage.produce(1)
    stage.kill()
    _damage(stage, 1)
    stage.start()
    finish(stage)


def _damage(stage: Stage, which: int) -> None:
    path = stage.segments()[0]
    batches = batches_of(path)
    position, size, base = batches[which]
    following = batches[which + 1][2]
    # In the value of a record, not in a length: whoever does not check sees nothing odd but the value.
    flip(path, position + size - 10)
    stage.history.note("damage", topic=TOPIC, partition=0, first=base, last=following - 1)


def an_index_entry_is_wrong(stage: Stage) -> None:
    """After a clean stop, so that nothing makes recovery read the segments."""
    begin(stage)
    for _ in range(12):
        stage.produce(2)
    stage.stop()
    path = stage.segments()[0]
    index = path.with_suffix(".index")
    entries = [list(entry) for entry in struct.iter_unpack(">ii", index.read_bytes())]
    places = [position for position, _, _ in batches_of(path)]
    # It points at the batch behind the one that it speaks of, and the entries still rise.
    wrong = next(n for n in range(len(entries) - 1) if entries[n + 1][1] > _behind(places, entries[n][1]))
    entries[wrong][1] = _behind(places, entries[wrong][1])
    index.write_bytes(b"".join(struct.pack(">ii", *entry) for entry in entries))
    stage.start()
    for offset in range(24):
        stage.read(offset)
    finish(stage)


def _behind(places: list[int], position: int) -> int:
    return places[places.index(position) + 1]


def commits_and_a_kill(stage: Stage) -> None:
    begin(stage, partitions=2)
    stage.produce(5)
    stage.produce(5, partition=1)
    stage.commit([2, 3])
    stage.fetch(2)
    stage.commit([4, 5])
    stage.kill()
    stage.start()
    stage.fetch(2)
    stage.drain(partitions=(0, 1))
    stage.stop()


def a_restart(stage: Stage) -> None:
    """Whoever looks first finds what was there."""
    begin(stage)
    for _ in range(3):
        stage.produce(2)
    stage.read(0)
    stage.offsets()
    stage.kill()
    stage.start()
    finish(stage)


def written_and_killed(stage: Stage) -> None:
    begin(stage)
    for _ in range(3):
        stage.produce(2, acks=1)
    stage.kill()
    stage.start()
    finish(stage)


def repeats_and_a_kill(stage: Stage) -> None:
    begin(stage)
    producer_id, epoch = stage.engine.init_producer_id(0, 0)
    stamp = ProducerStamp(producer_id, epoch, 0)
    stage.produce(2, stamp=stamp)
    stage.send(0, 2, stamp=stamp)
    stage.kill()
    stage.start()
    stage.send(0, 2, stamp=stamp)
    stage.produce(2, stamp=ProducerStamp(producer_id, epoch, 2))
    finish(stage)


def the_next_epoch(stage: Stage) -> None:
    begin(stage)
    producer_id, epoch = stage.engine.init_producer_id(0, 0)
    stage.produce(2, stamp=ProducerStamp(producer_id, epoch, 0))
    _, following = stage.engine.init_producer_id(producer_id, epoch)
    stage.produce(1, stamp=ProducerStamp(producer_id, epoch, 2), fenced=True)
    stage.produce(1, stamp=ProducerStamp(producer_id, following, 0))
    finish(stage)


def records_are_deleted(stage: Stage) -> None:
    begin(stage)
    for _ in range(6):
        stage.produce(4)
    stage.delete_records(10)
    stage.offsets()
    stage.kill()
    stage.start()
    finish(stage)


def many_segments(stage: Stage) -> None:
    begin(stage)
    for _ in range(16):
        stage.produce(2)
    for offset in (0, 3, 11, 30):
        stage.read(offset)
    finish(stage)


def a_topic_comes_and_goes(stage: Stage) -> None:
    begin(stage)
    stage.produce(1)
    stage.set_topic("other", stage.create, True)
    stage.get_topic("other")
    stage.set_topic("other", stage.engine.delete_topic, None)
    stage.get_topic("other")
    stage.kill()
    stage.start()
    stage.get_topic("other")
    finish(stage)


def going_on_after_a_fault(stage: Stage) -> None:
    """The wait for an answer is cut short; on the history's clock six seconds go by."""
    begin(stage)
    stage.produce(1, wait=False)
    stage.settle()
    stage.history.note("fault", what="kill")
    stage.kill()
    stage.start()
    stage.history.note("healed", what="kill")
    stage.produce(1)
    stage.history.let_pass(6.0)
    stage.history.note("stopping")
    stage.drain()
    stage.stop()


#: By name; what else a scenario's log needs.
SCENARIOS: dict[str, tuple[Scenario, dict[str, int]]] = {
    play.__name__: (play, more)
    for play, more in [
        (power_cut_after_an_answer, {}),
        (power_cut_after_a_roll, {}),
        (power_cut_with_a_roll_under_way, {}),
        (power_cut_with_unflushed_records, {}),
        (power_cut_while_many_are_flushed_at_once, {"flush_threads": 1}),
        (power_cut_while_several_are_flushed_with_one_call, {"flush_threads": 1}),
        (power_cut_after_a_checkpoint, {}),
        (a_flush_fails, {}),
        (kill_with_a_torn_tail, {}),
        (kill_with_a_hole_in_the_tail, {}),
        (a_byte_flips_under_a_reader, {}),
        (a_byte_flips_before_a_restart, {}),
        (an_index_entry_is_wrong, {"segment_bytes": 2048, "index_interval_bytes": 300}),
        (commits_and_a_kill, {}),
        (a_restart, {}),
        (written_and_killed, {"flush_linger_ms": 60_000}),
        (repeats_and_a_kill, {}),
        (the_next_epoch, {}),
        (records_are_deleted, {}),
        (many_segments, {}),
        (a_topic_comes_and_goes, {}),
        (going_on_after_a_fault, {}),
    ]
}
