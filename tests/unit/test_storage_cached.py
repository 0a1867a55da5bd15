"""Reading only what is in memory: the same records, or a word that there may be a wait and nothing has changed."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from takhin._segment import SegmentFile
from takhin.errors import DataLoss
from takhin.storage.compression import compress
from takhin.storage.partition import Partition
from takhin.storage.reader import PartitionReader

from .storage_tools import Store, append, append_batch, configs, flip, frame, wait_until

#: About what a batch of the tests has.
BATCH = 400


def filled(path: Path, batches: int = 20, segment_bytes: int = 1 << 20) -> tuple[Store, Partition]:
    store = Store(path, configs=configs(segment_bytes=segment_bytes)).open()
    for n in range(batches):
        append(store.partition(), b"%04d" % n * 80)
    return store, store.partition()


def forget(partition: Partition) -> None:
    """Out of the page cache with all of it. The kernel need not do what it is asked for: pages that it is at stay."""
    for segment in partition.segments:
        segment.file().flush()
        wait_until(partial(is_out, segment.file()))


def is_out(file: SegmentFile) -> bool:
    """Not found out by a read: even one that does not wait has the kernel begin with it."""
    file.drop_cache()
    size = file.size()
    pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE + 1))()
    with mmap.mmap(file.fd, size, mmap.MAP_PRIVATE) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), pages)
        del start
    assert not failed
    return not any(page & 1 for page in pages)


def place(partition: Partition) -> PartitionReader:
    """A reader that has read its first batch, and so knows where it is."""
    reader = PartitionReader(partition, 0)
    first = reader.read(BATCH)
    assert first is not None
    assert len(first.records()) == 1
    reader.advance(first.next_offset)
    return reader


def rest(reader: PartitionReader, cached_only: bool) -> list[int]:
    return list(offsets(reader, cached_only))


def offsets(reader: PartitionReader, cached_only: bool) -> Iterator[int]:
    while (batches := reader.read(BATCH, cached_only)) is not None:
        yield from [record[0] for record in batches.records()]
        reader.advance(batches.next_offset)


def test_what_is_in_memory_is_read(tmp_path: Path) -> None:
    store, partition = filled(tmp_path)
    assert rest(place(partition), cached_only=True) == list(range(1, 20))
    store.close()


def test_what_may_not_be_in_memory_is_read_by_who_may_wait_from_where_the_other_stopped(tmp_path: Path) -> None:
    """A quick disk may have answered before the kernel looks a second time: then nothing is left. What must be left,
    whatever the disk, is in ``tests/faults/test_not_in_memory.py``."""
    store, partition = filled(tmp_path)
    reader = place(partition)
    forget(partition)
    found: list[int] = []
    with suppress(BlockingIOError):
        found.extend(offsets(reader, cached_only=True))
    assert found + rest(reader, cached_only=False) == list(range(1, 20))
    store.close()


def test_a_place_that_has_to_be_looked_for_is_left_too(tmp_path: Path) -> None:
    store, partition = filled(tmp_path)
    with pytest.raises(BlockingIOError):
        PartitionReader(partition, 0).read(BATCH, cached_only=True)
    reader = place(partition)
    reader.advance(7)
    with pytest.raises(BlockingIOError):
        reader.read(BATCH, cached_only=True)
    assert rest(reader, cached_only=False) == list(range(7, 20))
    store.close()


def test_the_next_segment_is_read_if_it_is_open(tmp_path: Path) -> None:
    store, partition = filled(tmp_path, segment_bytes=1500)
    assert len(partition.segments) > 3
    # All of them are, just written.
    assert rest(place(partition), cached_only=True) == list(range(1, 20))
    reader = place(partition)
    shut = partition.segments[1]
    shut.let_go()
    found: list[int] = []
    with pytest.raises(BlockingIOError):
        found.extend(offsets(reader, cached_only=True))
    assert found == list(range(1, shut.base_offset))
    assert rest(reader, cached_only=False) == list(range(shut.base_offset, 20))
    store.close()


def test_compressed_batches_are_left_and_plain_ones_behind_them_read(tmp_path: Path) -> None:
    store, partition = filled(tmp_path, batches=2)
    append_batch(partition, compress(frame(b"x" * 1000), "zstd"))
    append_batch(partition, compress(frame(b"x" * 1000), "zstd"))
    append(partition, b"y" * 400)
    append(partition, b"z" * 400)
    reader = place(partition)
    seen = []
    for may_wait in (False, True):
        try:
            while (batches := reader.read(1, cached_only=not may_wait)) is not None:
                seen += [(may_wait, record[0]) for record in batches.records()]
                reader.advance(batches.next_offset)
                may_wait = may_wait and batches.next_offset < 5
        except BlockingIOError:
            assert not may_wait
    assert seen == [(False, 1), (True, 2), (True, 3), (True, 4), (False, 5)]
    store.close()


def test_damage_is_left_to_who_may_look_behind_it(tmp_path: Path) -> None:
    store, partition = filled(tmp_path)
    reader = place(partition)
    flip(store.files(".log")[0], partition.segments[0].size // 2)
    with pytest.raises(BlockingIOError):
        rest(reader, cached_only=True)
    [lost] = set(range(reader.next_offset, 20)) - set(_around(reader))
    assert lost == 10
    store.close()


def _around(reader: PartitionReader) -> list[int]:
    found = []
    while True:
        try:
            found += rest(reader, cached_only=False)
            return found
        except DataLoss as loss:
            reader.advance(int(loss.fields["last_offset"]) + 1)


def test_at_the_end_there_is_nothing_and_no_wait(tmp_path: Path) -> None:
    store, partition = filled(tmp_path)
    reader = place(partition)
    reader.advance(20)
    forget(partition)
    assert reader.read(BATCH, cached_only=True) is None
    store.close()
