"""Consumer groups, many callers at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from takhin import errors
from takhin.clock import ManualClock
from takhin.config import LimitsConfig
from takhin.groups import Groups
from takhin.metadata import Metadata


@dataclass
class Member:
    member_id: str


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[Metadata]:
    metadata = Metadata(tmp_path / "metadata.db", ManualClock())
    metadata.open()
    yield metadata
    metadata.close()


@pytest.fixture
def topic_id(metadata: Metadata) -> str:
    return metadata.create_topic("logs", 4, {}).topic_id


@pytest.fixture
def groups(metadata: Metadata) -> Groups[Member]:
    return Groups(metadata, LimitsConfig(max_groups=10))


class SlowDeletion:
    """Holds ``Metadata.delete_group`` between its beginning and its end."""

    def __init__(self, metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.end = threading.Event()
        self._delete = metadata.delete_group
        monkeypatch.setattr(metadata, "delete_group", self)

    def __call__(self, group_id: str) -> bool:
        self.begun.set()
        assert self.end.wait(10)
        return self._delete(group_id)


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_who_joins_or_commits_during_a_deletion_comes_after_it(
    groups: Groups[Member], metadata: Metadata, topic_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups.commit("g", [(topic_id, 0, 5)])
    deletion = SlowDeletion(metadata, monkeypatch)
    deleting = in_thread(lambda: groups.delete("g"))
    assert deletion.begun.wait(10)
    seen: list[dict[tuple[str, int], int]] = []

    def join_and_read() -> None:
        groups.join("g", Member("m"))
        seen.append(groups.fetch("g"))

    joining = in_thread(join_and_read)
    committing = in_thread(lambda: groups.commit("g", [(topic_id, 1, 6)]))
    joining.join(0.05)
    assert joining.is_alive()
    assert committing.is_alive()
    groups.commit("other", [(topic_id, 0, 1)])  # nobody else is held up
    assert groups.describe("g").members == ()
    deletion.end.set()
    for thread in (deleting, joining, committing):
        thread.join(10)
        assert not thread.is_alive()
    assert (topic_id, 0) not in seen[0]
    assert groups.fetch("g") == {(topic_id, 1): 6}
    assert len(groups.describe("g").members) == 1


def test_of_two_deletions_one_finds_the_group(
    groups: Groups[Member], metadata: Metadata, topic_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups.commit("g", [(topic_id, 0, 5)])
    deletion = SlowDeletion(metadata, monkeypatch)
    outcomes: list[str] = []

    def delete() -> None:
        try:
            groups.delete("g")
            outcomes.append("deleted")
        except errors.GroupNotFound:
            outcomes.append("not found")

    threads = [in_thread(delete) for _ in range(4)]
    assert deletion.begun.wait(10)
    deletion.end.set()
    for thread in threads:
        thread.join(10)
    assert sorted(outcomes) == ["deleted", "not found", "not found", "not found"]
    assert groups._live == {}


def test_no_member_ever_sees_its_commit_deleted(groups: Groups[Member], topic_id: str) -> None:
    """Members join, commit, read back and leave, while somebody deletes the group all the time."""
    stop = threading.Event()
    problems: list[str] = []

    def member(number: int) -> None:
        for offset in range(1, 60):
            leave = groups.join("g", Member(f"m{number}"))
            groups.commit("g", [(topic_id, number, offset)])
            read = groups.fetch("g").get((topic_id, number))
            if read != offset:
                problems.append(f"{read} instead of {offset}")
            leave()

    def delete() -> None:
        while not stop.is_set():
            try:
                groups.delete("g")
            except (errors.GroupNotEmpty, errors.GroupNotFound):
                pass

    members = [in_thread(lambda number=number: member(number)) for number in range(4)]  # type: ignore[misc]
    deleter = in_thread(delete)
    for thread in members:
        thread.join(60)
    stop.set()
    deleter.join(10)
    assert problems == []
    assert groups._live == {}


def test_the_limit_holds_when_many_come_at_once(groups: Groups[Member], topic_id: str) -> None:
    refused: list[str] = []
    barrier = threading.Barrier(24)

    def come(number: int) -> None:
        barrier.wait(10)
        try:
            if number % 2:
                groups.commit(f"g{number}", [(topic_id, 0, 1)])
            else:
                groups.join(f"g{number}", Member("m"))
        except errors.LimitReached:
            refused.append(f"g{number}")

    threads = [in_thread(lambda number=number: come(number)) for number in range(24)]  # type: ignore[misc]
    for thread in threads:
        thread.join(10)
    assert len(groups.list()) == 10
    assert len(refused) == 14
