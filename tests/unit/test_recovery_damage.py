"""Damage to what was flushed: the exact range is an error, its neighbours are served, nothing is cut or renumbered."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from takhin.errors import DataLoss
from takhin.storage.reader import PartitionReader, find_time
from tests.reference import record_batch as reference

from .storage_tools import (
    NOW,
    Store,
    append,
    configs,
    flip,
    flush,
    frame,
    killed,
    read_all,
    read_around,
    settle,
    stores,
    values,
    wait_until,
)

Make = Callable[..., Store]
SMALL = configs(segment_bytes=2000, index_interval_bytes=200)


@pytest.fixture
def make() -> Iterator[Make]:
    yield from stores()


def fill(store: Store, batches: int = 40, seed: int = 1) -> None:
    chance = random.Random(seed)
    partition = store.partition()
    for _ in range(batches):
        append(partition, *(chance.randbytes(chance.randint(5, 60)) for _ in range(chance.randint(1, 4))))
    wait_until(lambda: not any(segment.pinned for segment in partition.segments))


def batches_of(store: Store, which: int) -> tuple[Path, list[reference.Batch]]:
    path = store.files(".log")[which]
    return path, reference.decode_all(path.read_bytes())


def all_but(first: int, last: int, end: int) -> tuple[list[int], list[tuple[int, int]]]:
    return [n for n in range(end) if not first <= n <= last], [(first, last)]


#: Where in a batch: a name, and the byte from its start (negative: from its end).
PLACES = {
    "base offset": 7,
    "base offset, far": 2,
    "length": 11,
    "length, beyond the file": 8,
    "magic": 16,
    "crc": 18,
    "attributes": 22,
    "last offset delta": 26,
    "max timestamp": 40,
    "record count": 60,
    "first record": 61,
    "last byte": -1,
}


@pytest.mark.parametrize("derived", [True, False], ids=["with indexes", "without"])
@pytest.mark.parametrize("stop", ["clean", "killed", "killed after a checkpoint"])
def test_a_flipped_bit_costs_its_batch_and_nothing_else(make: Make, stop: str, derived: bool) -> None:
    origin = make("origin", configs=SMALL).open()
    fill(origin)
    if stop == "killed after a checkpoint":
        assert origin.manager is not None
        origin.manager.write_checkpoint()
        fill(origin, 10, seed=2)
    end = origin.partition().log_end_offset
    if stop == "clean":
        origin.close()
    chance = random.Random(stop)
    segments = len(origin.files(".log"))
    assert segments > 3
    for place, at in PLACES.items():
        for which in (0, chance.randrange(1, segments - 1), segments - 1):
            store = killed(make, origin, "copy")
            path, batches = batches_of(store, which)
            hit = chance.choice(batches)
            flip(path, hit.position + at if at >= 0 else hit.position + hit.size + at, 1 << chance.randrange(7))
            damaged = path.read_bytes()
            if not derived:
                for suffix in (".index", ".timeindex", ".seal"):
                    for file in store.files(suffix):
                        file.unlink()
            store.open()
            partition = store.partition()
            what = f"{place} of {hit.base_offset} to {hit.last_offset} in segment {which} of {segments}"
            assert partition.log_end_offset == end, what
            assert read_around(partition) == all_but(hit.base_offset, hit.last_offset, end), what
            for begin in range(end):
                if not hit.base_offset <= begin <= hit.last_offset:
                    batches_read = PartitionReader(partition, begin).read(1)
                    assert batches_read is not None
                    assert batches_read.records()[0][0] == begin, what
            assert append(partition, b"next").base_offset == end, "offsets go on"
            assert read_around(partition) == all_but(hit.base_offset, hit.last_offset, end + 1), what
            assert path.read_bytes()[: len(damaged)] == damaged, "nothing is cut"
            assert store.quarantine() == {}, what
            store.close()


def test_the_error_says_what_is_lost(make: Make) -> None:
    store = make().open()
    for n in range(9):
        append(store.partition(), b"%d" % n, b"x")
    path, batches = batches_of(store, 0)
    flip(path, batches[3].position + 70)
    with pytest.raises(DataLoss) as caught:
        read_all(store.partition())
    fields = caught.value.fields
    assert (fields["topic"], fields["partition"]) == ("orders", "0")
    assert (fields["first_offset"], fields["last_offset"]) == ("6", "7")
    assert "6 to 7" in caught.value.message


def test_neighbouring_damages_are_one_range(make: Make) -> None:
    origin = make("origin").open()
    fill(origin)
    end = origin.partition().log_end_offset
    for restart in (False, True):
        store = killed(make, origin, f"{restart}")
        path, batches = batches_of(store, 0)
        if not restart:
            store.open()
        for batch in batches[5:8]:
            flip(path, batch.position + 65)
        if restart:
            store.open()
        first, last = batches[5].base_offset, batches[7].last_offset
        assert read_around(store.partition()) == all_but(first, last, end)
        assert read_around(store.partition(), batches[6].base_offset)[1] in (
            [(first, last)],
            [(batches[6].base_offset, last)],
        )


def test_a_zeroed_piece_costs_the_batches_that_it_touches(make: Make) -> None:
    origin = make("origin", configs=configs(segment_bytes=4000, index_interval_bytes=300)).open()
    fill(origin, 80)
    end = origin.partition().log_end_offset
    chance = random.Random(6)
    for _ in range(25):
        store = killed(make, origin, "copy")
        which = chance.randrange(len(store.files(".log")))
        path, batches = batches_of(store, which)
        size = path.stat().st_size
        begin = chance.randrange(size)
        stop = min(begin + chance.choice([100, 512]), size)
        data = path.read_bytes()
        path.write_bytes(data[:begin] + bytes(stop - begin) + data[stop:])
        touched = [b for b in batches if b.position < stop and b.position + b.size > begin]
        store.open()
        assert read_around(store.partition()) == all_but(touched[0].base_offset, touched[-1].last_offset, end)
        store.close()


def test_damage_at_the_end_of_the_log_does_not_hide_what_comes_later(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    for n in range(5):
        append(partition, b"%d" % n)
    path, batches = batches_of(store, 0)
    flip(path, batches[-1].position + 65)
    assert read_around(partition) == all_but(4, 4, 5)
    for n in range(5, 9):
        assert append(partition, b"%d" % n).base_offset == n
        assert read_around(partition) == all_but(4, 4, n + 1)
    store.reopen()
    assert read_around(store.partition()) == all_but(4, 4, 9)


def test_damage_to_the_last_flushed_batch_is_no_torn_tail(make: Make) -> None:
    origin = make("origin").open()
    for n in range(5):
        append(origin.partition(), b"%d" % n)
    for known in ("by the hint", "by both", "by the checkpoint"):
        if known == "by both":
            assert origin.manager is not None
            origin.manager.write_checkpoint()
        for how in ("flip", "cut", "cut away"):
            store = killed(make, origin)
            if known == "by the checkpoint":
                (store.path / "flushed-offsets").unlink()
            path, batches = batches_of(store, 0)
            if how == "flip":
                flip(path, -1)
            else:
                path.write_bytes(path.read_bytes()[: batches[-1].position + (9 if how == "cut" else 0)])
            store.open()
            partition = store.partition()
            assert read_around(partition) == all_but(4, 4, 5), how
            assert append(partition, b"next").base_offset == 5, "an offset that was acknowledged is not given again"
            assert read_around(partition) == all_but(4, 4, 6), how
            store.reopen()
            assert read_around(store.partition()) == all_but(4, 4, 6), how
            assert store.quarantine() == {}
            store.close()


def test_recovery_damage_and_a_torn_tail_together_cost_what_each_costs(make: Make) -> None:
    store = make("origin").open()
    fill(store)
    end = store.partition().log_end_offset
    copy = killed(make, store, "copy")
    path, batches = batches_of(copy, 0)
    flip(path, batches[7].position + 65)
    path.write_bytes(path.read_bytes() + frame(b"torn").tobytes(end)[:-3])
    copy.open()
    assert read_around(copy.partition()) == all_but(batches[7].base_offset, batches[7].last_offset, end)
    assert len(copy.quarantine()) == 1


# -- batches within records ------------------------------------------------------------------


def embedded(base_offset: int, count: int = 1) -> bytes:
    """A batch that ends as a record does, but for that last byte (its number of headers, 0), which the batch
    around it brings along."""
    whole = reference.encode([(None, b"never sent", [], NOW)] * count, base_offset)
    assert whole[-1] == 0
    return whole[:-1]


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("place", [7, 8, 11, 16, 17, 22, 26, 35, 60, 65])
@pytest.mark.parametrize("following", ["good", "damaged too"])
def test_a_batch_within_a_damaged_batch_is_never_served(
    make: Make, following: str, place: int, restart: bool, indexed: bool
) -> None:
    store = make(configs=configs(index_interval_bytes=0 if indexed else 1 << 20)).open()
    partition = store.partition()
    append(partition, b"before")
    # Offsets 1 to 3; each claim fits to the record that comes next.
    append(partition, b"a", b"b" * 40, embedded(3))
    append(partition, b"c", embedded(4, 2))
    append(partition, b"after")
    settle(partition)
    path, batches = batches_of(store, 0)
    if restart:
        store.close()
    flip(path, batches[1].position + place, 0x40 if place != 11 else 0x02)
    if following == "damaged too":
        flip(path, batches[2].position + 65)
    if restart:
        store.open()
    expected = ([0, 6], [(1, 5)]) if following == "damaged too" else ([0, 4, 5, 6], [(1, 3)])
    assert read_around(store.partition()) == expected
    assert values(store.partition(), 6) == [(6, b"after")]


# -- missing and foreign files ---------------------------------------------------------------


@pytest.mark.parametrize("stop", ["clean", "killed", "killed after a checkpoint"])
@pytest.mark.parametrize("which", [0, 2, -2, -1])
def test_a_missing_segment_is_a_loss_and_later_offsets_keep_their_numbers(make: Make, stop: str, which: int) -> None:
    store = make("origin", configs=SMALL).open()
    fill(store)
    if stop == "killed after a checkpoint":
        assert store.manager is not None
        store.manager.write_checkpoint()
    end = store.partition().log_end_offset
    if stop == "clean":
        store.close()
    copy = killed(make, store, "copy")
    path, batches = batches_of(copy, which)
    path.unlink()
    copy.open()
    partition = copy.partition()
    expected = all_but(batches[0].base_offset, batches[-1].last_offset, end)
    assert (partition.log_start_offset, partition.log_end_offset) == (0, end)
    assert read_around(partition) == expected
    assert append(partition, b"next").base_offset == end
    copy.reopen()
    assert read_around(copy.partition()) == ([*expected[0], end], expected[1])


def test_all_segments_missing_is_a_loss_too(make: Make) -> None:
    store = make(configs=SMALL).open()
    fill(store)
    end = store.partition().log_end_offset
    store.close()
    for path in store.files():
        path.unlink()
    store.open()
    assert read_around(store.partition()) == ([], [(0, end - 1)])
    assert append(store.partition(), b"next").base_offset == end
    assert read_around(store.partition()) == ([end], [(0, end - 1)])


@pytest.mark.parametrize("stop", ["clean", "killed", "killed without a checkpoint"])
@pytest.mark.parametrize("kind", ["copy in the middle", "other name", "overlap", "garbage", "far behind"])
def test_a_foreign_segment_file_is_set_aside(make: Make, stop: str, kind: str) -> None:
    store = make("origin", configs=SMALL).open()
    fill(store)
    expected = read_all(store.partition())
    if stop == "clean":
        store.close()
    copy = killed(make, store, "copy")
    if stop == "killed without a checkpoint":
        (copy.path / "checkpoint").unlink(missing_ok=True)
    _, batches = batches_of(copy, 2)
    first, inside = batches[0].base_offset, batches[3].base_offset
    end = len(expected)
    name, data = {
        "copy in the middle": (inside, b"".join(reference.encode([(None, b"x", [], NOW)], inside) for _ in range(1))),
        "other name": (first + 1, copy.files(".log")[2].read_bytes()),
        "overlap": (inside, reference.encode([(None, b"x", [], NOW)] * 50, inside)),
        "garbage": (inside, random.Random(1).randbytes(500)),
        "far behind": (end + 1000, reference.encode([(None, b"x", [], NOW)], end + 1000)),
    }[kind]
    foreign = copy.directory() / f"{name:020d}.log"
    assert not foreign.exists()
    foreign.write_bytes(data)
    copy.open()
    assert read_all(copy.partition()) == expected
    assert not foreign.exists()
    assert data in copy.quarantine().values()
    assert append(copy.partition(), b"next").base_offset == end
    copy.reopen()
    assert read_all(copy.partition())[:-1] == expected


# -- while it runs ---------------------------------------------------------------------------


def test_a_file_that_vanishes_while_the_server_runs_is_a_loss_of_its_records_only(make: Make) -> None:
    store = make(configs=SMALL).open()
    fill(store)
    partition = store.partition()
    end = partition.log_end_offset
    path, batches = batches_of(store, 2)
    for segment in partition.segments:
        segment.let_go()
    path.unlink()
    assert read_around(partition) == all_but(batches[0].base_offset, batches[-1].last_offset, end)


def test_a_loss_is_told_up_to_what_may_be_read(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    for n in range(3):
        append(partition, b"%d" % n)
    partition.flush_state = 99  # as if no flush ever came
    for n in range(3, 6):
        partition.append(frame(b"%d" % n), None)
    path, batches = batches_of(store, 0)
    for batch in batches[2:4]:
        flip(path, batch.position + 65)
    assert read_around(partition) == all_but(2, 2, 3), "offset 3 is damaged too, and nobody's business yet"
    partition.flush_state = 0
    flush(partition)
    assert read_around(partition, 4) == ([4, 5], [])
    assert read_around(partition) == all_but(2, 3, 6)


def test_a_search_by_time_says_when_it_meets_damage(make: Make) -> None:
    store = make().open()
    partition = store.partition()
    for n in range(6):
        append(partition, b"%d" % n, timestamp=NOW + n)
    path, batches = batches_of(store, 0)
    flip(path, batches[2].position + 65)
    assert find_time(partition, NOW + 1) == (1, NOW + 1)
    with pytest.raises(DataLoss):
        find_time(partition, NOW + 2)
    with pytest.raises(DataLoss):
        find_time(partition, NOW + 4)


# -- more than one thing at once -------------------------------------------------------------


def test_a_file_that_went_back_to_an_older_state_does_not_give_offsets_again(make: Make) -> None:
    store = make().open()
    for n in range(3):
        append(store.partition(), b"%d" % n)
    assert store.manager is not None
    store.manager.write_checkpoint()
    older = store.files(".log")[0].read_bytes()
    for n in range(3, 5):
        append(store.partition(), b"%d" % n)
    copy = killed(make, store)
    copy.files(".log")[0].write_bytes(older)
    copy.open()
    assert read_around(copy.partition()) == all_but(3, 4, 5)
    assert append(copy.partition(), b"next").base_offset == 5


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_flipped_base_offset_at_the_beginning_of_a_segment_costs_one_batch(make: Make, checkpoint: bool) -> None:
    origin = make("origin", configs=SMALL).open()
    fill(origin)
    if checkpoint:
        assert origin.manager is not None
        origin.manager.write_checkpoint()
    end = origin.partition().log_end_offset
    for which in range(len(origin.files(".log"))):
        for at in (7, 1):
            store = killed(make, origin)
            path, batches = batches_of(store, which)
            flip(path, at, 1)
            store.open()
            assert read_around(store.partition()) == all_but(batches[0].base_offset, batches[0].last_offset, end)
            assert store.quarantine() == {}
            store.close()


def test_a_foreign_file_in_the_place_of_a_missing_one_does_no_harm_to_those_behind(make: Make) -> None:
    origin = make("origin", configs=SMALL).open()
    fill(origin)
    end = origin.partition().log_end_offset
    store = killed(make, origin)
    path, batches = batches_of(store, 1)
    path.unlink()
    foreign = reference.encode([(None, b"x", [], NOW)], 7777)
    (store.directory() / f"{batches[2].base_offset:020d}.log").write_bytes(foreign)
    store.open()
    assert read_around(store.partition()) == all_but(batches[0].base_offset, batches[-1].last_offset, end)
    assert list(store.quarantine().values()) == [foreign]
