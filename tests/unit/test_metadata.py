"""The metadata store as its callers see it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from takhin import errors
from takhin.clock import ManualClock
from takhin.metadata import MAX_PRODUCER_EPOCH, Metadata


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata.db"


@pytest.fixture
def metadata(path: Path) -> Iterator[Metadata]:
    store = Metadata(path, ManualClock())
    store.open()
    yield store
    store.close()


def reopened(metadata: Metadata) -> Metadata:
    metadata.close()
    metadata.open()
    return metadata


def test_server_id_is_made_once(metadata: Metadata) -> None:
    server_id = metadata.server_id
    assert len(bytes.fromhex(server_id)) == 16
    assert reopened(metadata).server_id == server_id


def test_two_databases_have_two_server_ids(metadata: Metadata, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Metadata(tmp_path / "other" / "metadata.db", ManualClock())
    other.open()
    assert other.server_id != metadata.server_id
    other.close()


def test_topics_come_back_as_they_were_made(metadata: Metadata) -> None:
    made = metadata.create_topic("logs", 3, {"retention.ms": "60000", "cleanup.policy": "delete"})
    assert made.name == "logs"
    assert made.num_partitions == 3
    assert made.created_ms == ManualClock().now_ms()
    assert not made.deleting
    assert len(bytes.fromhex(made.topic_id)) == 16
    assert metadata.topics() == [made]
    assert reopened(metadata).topics() == [made]


def test_topics_are_listed_by_name(metadata: Metadata) -> None:
    for name in ("b", "c", "a"):
        metadata.create_topic(name, 1, {})
    assert [topic.name for topic in metadata.topics()] == ["a", "b", "c"]


def test_a_topic_name_is_taken_until_the_topic_is_forgotten(metadata: Metadata) -> None:
    first = metadata.create_topic("logs", 1, {})
    with pytest.raises(errors.TopicAlreadyExists):
        metadata.create_topic("logs", 1, {})
    metadata.mark_deleting(first.topic_id)
    with pytest.raises(errors.TopicAlreadyExists):
        metadata.create_topic("logs", 1, {})
    metadata.forget_topic(first.topic_id)
    assert metadata.create_topic("logs", 1, {}).topic_id != first.topic_id


def test_what_a_caller_does_to_a_topic_row_changes_nothing(metadata: Metadata) -> None:
    configs = {"retention.ms": "1"}
    made = metadata.create_topic("logs", 1, configs)
    configs["retention.ms"] = "2"
    made.configs["retention.ms"] = "3"
    metadata.topics()[0].configs["retention.ms"] = "4"
    assert metadata.topics()[0].configs == {"retention.ms": "1"}


def test_topic_changes_are_kept(metadata: Metadata) -> None:
    topic_id = metadata.create_topic("logs", 1, {"retention.ms": "1"}).topic_id
    metadata.set_num_partitions(topic_id, 5)
    metadata.set_configs(topic_id, {"segment.ms": "7"})
    metadata.mark_deleting(topic_id)
    (topic,) = reopened(metadata).topics()
    assert (topic.num_partitions, topic.configs, topic.deleting) == (5, {"segment.ms": "7"}, True)


def test_changing_an_unknown_topic_is_refused(metadata: Metadata) -> None:
    unknown = "0" * 32
    with pytest.raises(errors.TopicNotFound):
        metadata.set_num_partitions(unknown, 2)
    with pytest.raises(errors.TopicNotFound):
        metadata.set_configs(unknown, {})
    with pytest.raises(errors.TopicNotFound):
        metadata.mark_deleting(unknown)
    metadata.forget_topic(unknown)


def test_forgetting_a_topic_takes_its_offsets_along_and_no_others(metadata: Metadata) -> None:
    gone = metadata.create_topic("gone", 2, {}).topic_id
    kept = metadata.create_topic("kept", 2, {}).topic_id
    metadata.set_log_start_offsets([(gone, 0, 5), (kept, 0, 6)])
    metadata.commit_offsets("both", [(gone, 0, 1), (gone, 1, 2), (kept, 1, 3)])
    metadata.commit_offsets("one", [(gone, 0, 4)])
    metadata.forget_topic(gone)
    for store in (metadata, reopened(metadata)):
        assert [topic.name for topic in store.topics()] == ["kept"]
        assert store.log_start_offsets() == {(kept, 0): 6}
        assert store.committed_offsets("both") == {(kept, 1): 3}
        assert store.group_ids() == ["both"]


def test_log_starts_never_go_back(metadata: Metadata) -> None:
    topic_id = metadata.create_topic("logs", 2, {}).topic_id
    metadata.set_log_start_offsets([(topic_id, 0, 10), (topic_id, 1, 1), (topic_id, 1, 3), (topic_id, 1, 2)])
    metadata.set_log_start_offsets([(topic_id, 0, 9), ("f" * 32, 0, 1)])
    assert metadata.log_start_offsets() == {(topic_id, 0): 10, (topic_id, 1): 3}
    assert reopened(metadata).log_start_offsets() == {(topic_id, 0): 10, (topic_id, 1): 3}


def test_committed_offsets_are_kept_and_may_go_back(metadata: Metadata) -> None:
    topic_id = metadata.create_topic("logs", 2, {}).topic_id
    metadata.commit_offsets("gruppe äöü 🦆", [(topic_id, 0, 10), (topic_id, 1, 2**63 - 1)])
    metadata.commit_offsets("gruppe äöü 🦆", [(topic_id, 0, 4)])
    expected = {(topic_id, 0): 4, (topic_id, 1): 2**63 - 1}
    assert metadata.committed_offsets("gruppe äöü 🦆") == expected
    assert reopened(metadata).committed_offsets("gruppe äöü 🦆") == expected
    assert metadata.committed_offsets("other") == {}


@pytest.mark.parametrize(
    ("partition", "offset", "error"),
    [
        (0, -1, errors.InvalidOffset),
        (0, 2**63, errors.InvalidOffset),
        (1, 0, errors.PartitionNotFound),
        (-1, 0, errors.PartitionNotFound),
        (2**31, 0, errors.PartitionNotFound),
    ],
)
def test_a_commit_with_one_bad_offset_stores_none(
    metadata: Metadata, partition: int, offset: int, error: type[errors.TakhinError]
) -> None:
    topic_id = metadata.create_topic("logs", 1, {}).topic_id
    with pytest.raises(error):
        metadata.commit_offsets("g", [(topic_id, 0, 5), (topic_id, partition, offset)])
    assert metadata.committed_offsets("g") == {}
    assert metadata.group_ids() == []


def test_a_commit_on_a_topic_that_goes_is_refused(metadata: Metadata) -> None:
    topic_id = metadata.create_topic("logs", 1, {}).topic_id
    metadata.mark_deleting(topic_id)
    with pytest.raises(errors.TopicNotFound):
        metadata.commit_offsets("g", [(topic_id, 0, 5)])
    metadata.forget_topic(topic_id)
    with pytest.raises(errors.TopicNotFound):
        metadata.commit_offsets("g", [(topic_id, 0, 5)])


def test_a_refused_commit_does_not_hinder_those_beside_it(metadata: Metadata) -> None:
    topic_id = metadata.create_topic("logs", 1, {}).topic_id
    outcomes: list[str] = []

    def commit(group: int) -> None:
        partition = group % 2
        try:
            metadata.commit_offsets(f"g{group}", [(topic_id, partition, group)])
        except errors.PartitionNotFound:
            outcomes.append("refused")

    threads = [threading.Thread(target=commit, args=(group,), daemon=True) for group in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["refused"] * 20
    assert metadata.group_ids() == sorted(f"g{group}" for group in range(0, 40, 2))


def test_a_group_id_that_is_not_unicode_is_refused(metadata: Metadata) -> None:
    topic_id = metadata.create_topic("logs", 1, {}).topic_id
    with pytest.raises(errors.InvalidGroupId):
        metadata.commit_offsets("\ud800", [(topic_id, 0, 5)])


def test_committing_what_is_there_already_writes_nothing(metadata: Metadata) -> None:
    topic_id = metadata.create_topic("logs", 1, {}).topic_id
    metadata.commit_offsets("g", [(topic_id, 0, 5)])
    commits = metadata._store.state.commits
    metadata.commit_offsets("g", [(topic_id, 0, 5)])
    metadata.commit_offsets("g", [])
    assert metadata._store.state.commits == commits


def test_deleting_a_group_forgets_all_it_committed(metadata: Metadata) -> None:
    topic_id = metadata.create_topic("logs", 3, {}).topic_id
    metadata.commit_offsets("a", [(topic_id, 0, 1), (topic_id, 2, 1)])
    metadata.commit_offsets("b", [(topic_id, 0, 2)])
    assert metadata.delete_group("a")
    assert not metadata.delete_group("a")
    assert metadata.group_ids() == ["b"]
    assert not metadata.has_group("a")
    assert metadata.group_count() == 1
    assert reopened(metadata).committed_offsets("a") == {}
    assert metadata.committed_offsets("b") == {(topic_id, 0): 2}


def test_producer_ids_are_never_given_twice(metadata: Metadata) -> None:
    first = metadata.new_producer()
    second = metadata.new_producer()
    third = reopened(metadata).new_producer()
    assert [first, second, third] == [(1, 0), (2, 0), (3, 0)]


def test_bumping_a_producer_fences_its_older_epoch(metadata: Metadata) -> None:
    producer_id, epoch = metadata.new_producer()
    assert metadata.producer_epoch(producer_id) == 0
    assert metadata.bump_producer(producer_id, epoch) == (producer_id, 1)
    assert reopened(metadata).producer_epoch(producer_id) == 1
    with pytest.raises(errors.ProducerFenced):
        metadata.bump_producer(producer_id, 0)
    with pytest.raises(errors.ProducerFenced):
        metadata.bump_producer(producer_id, 2)
    with pytest.raises(errors.UnknownProducer):
        metadata.bump_producer(99, 0)
    assert metadata.producer_epoch(99) is None


def test_a_producer_past_its_last_epoch_gets_a_new_id(metadata: Metadata) -> None:
    producer_id, _ = metadata.new_producer()
    metadata._model.producers[producer_id] = MAX_PRODUCER_EPOCH - 1  # 32 thousand bumps later
    metadata._store.state = metadata._store.state.after(
        [(("producers", producer_id), (producer_id, 0), (producer_id, MAX_PRODUCER_EPOCH - 1))]
    )
    assert metadata.bump_producer(producer_id, MAX_PRODUCER_EPOCH - 1) == (producer_id, MAX_PRODUCER_EPOCH)
    assert metadata.bump_producer(producer_id, MAX_PRODUCER_EPOCH) == (producer_id + 1, 0)
    assert metadata.producer_epoch(producer_id) is None
    assert reopened(metadata).producer_epoch(producer_id + 1) == 0
    assert metadata.new_producer() == (producer_id + 2, 0)


def test_after_close_changes_are_refused_and_reads_answered(metadata: Metadata) -> None:
    topic = metadata.create_topic("logs", 1, {})
    metadata.close()
    metadata.close()
    with pytest.raises(errors.Unavailable):
        metadata.create_topic("more", 1, {})
    assert metadata.topics() == [topic]


def test_close_leaves_no_write_ahead_log(metadata: Metadata, path: Path) -> None:
    metadata.create_topic("logs", 1, {})
    metadata.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["metadata.db", "metadata.db-commits"]


def test_a_second_process_is_told_that_the_database_is_in_use(metadata: Metadata, path: Path) -> None:
    second = Metadata(path, ManualClock())
    with pytest.raises(errors.DataDirLocked):
        second.open()
    metadata.create_topic("logs", 1, {})


def test_many_threads_share_transactions(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    topic_id = metadata.create_topic("logs", 32, {}).topic_id
    store_commit = metadata._store.commit
    slow = threading.Event()

    def commit(changes: object) -> None:
        slow.wait(0.002)  # a slow disk
        store_commit(changes)  # type: ignore[arg-type]

    monkeypatch.setattr(metadata._store, "commit", commit)
    before = metadata._store.state.commits

    def work(partition: int) -> None:
        for offset in range(1, 21):
            metadata.commit_offsets("g", [(topic_id, partition, offset)])

    threads = [threading.Thread(target=work, args=(partition,), daemon=True) for partition in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metadata.committed_offsets("g") == {(topic_id, partition): 20 for partition in range(32)}
    assert metadata._store.state.commits - before < 32 * 20 / 4
    assert reopened(metadata).committed_offsets("g") == {(topic_id, partition): 20 for partition in range(32)}


def test_everything_at_once_from_many_threads_is_all_there_afterwards(metadata: Metadata) -> None:
    base = metadata.create_topic("base", 8, {}).topic_id
    producers: list[tuple[int, int]] = []

    def work(number: int) -> None:
        topic = metadata.create_topic(f"t{number}", 1, {})
        for step in range(10):
            metadata.commit_offsets(f"g{number}", [(base, number, step), (topic.topic_id, 0, step)])
            metadata.set_log_start_offsets([(base, number, step)])
            producers.append(metadata.new_producer())
            metadata.topics()
            metadata.committed_offsets(f"g{number}")
        if number % 2:
            metadata.forget_topic(topic.topic_id)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(producers) == [(number, 0) for number in range(1, 81)]
    reopened(metadata)
    assert [topic.name for topic in metadata.topics()] == ["base", "t0", "t2", "t4", "t6"]
    assert metadata.log_start_offsets() == {(base, number): 9 for number in range(8)}
    assert [len(metadata.committed_offsets(f"g{number}")) for number in range(8)] == [2, 1] * 4
