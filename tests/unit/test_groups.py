"""Consumer groups, one caller at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from takhin import errors
from takhin.clock import ManualClock
from takhin.config import LimitsConfig
from takhin.groups import DEAD, EMPTY, STABLE, Groups, check_group_id
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
    return Groups(metadata, LimitsConfig(max_groups=3))


def listed(groups: Groups[Member]) -> list[tuple[str, str, int]]:
    return [(group.group_id, group.state, len(group.members)) for group in groups.list()]


@pytest.mark.parametrize("group_id", ["g", "a group", "..", "/", "x" * 255, "ö" * 127, "🦆", "日本", "0", "-"])
def test_any_readable_text_is_a_group_id(groups: Groups[Member], group_id: str, topic_id: str) -> None:
    check_group_id(group_id)
    groups.commit(group_id, [(topic_id, 0, 1)])
    assert listed(groups) == [(group_id, EMPTY, 0)]


@pytest.mark.parametrize(
    "group_id",
    ["", "a\0b", "a\nb", "\x7f", "\x85", "\u2028", "\ud800", "x" * 256, "ö" * 128, "x" * 65536, "\n" * 65536],
)
def test_other_text_is_refused_by_every_method(groups: Groups[Member], group_id: str, topic_id: str) -> None:
    for call in (
        lambda: check_group_id(group_id),
        lambda: groups.commit(group_id, [(topic_id, 0, 1)]),
        lambda: groups.fetch(group_id),
        lambda: groups.join(group_id, Member("m")),
        lambda: groups.describe(group_id),
        lambda: groups.delete(group_id),
    ):
        with pytest.raises(errors.InvalidGroupId) as caught:
            call()
        assert caught.value.bad_field == "group_id"
        assert len(caught.value.message) < 100
    assert groups.list() == []


def test_a_group_is_known_from_its_first_commit_on_and_across_restarts(
    groups: Groups[Member], metadata: Metadata, topic_id: str
) -> None:
    with pytest.raises(errors.GroupNotFound):
        groups.describe("g")
    groups.commit("g", [(topic_id, 0, 5), (topic_id, 1, 6)])
    assert groups.describe("g").state == EMPTY
    metadata.close()
    metadata.open()
    again: Groups[Member] = Groups(metadata, LimitsConfig())
    assert listed(again) == [("g", EMPTY, 0)]
    assert again.fetch("g") == {(topic_id, 0): 5, (topic_id, 1): 6}


def test_a_commit_without_offsets_makes_no_group(groups: Groups[Member]) -> None:
    groups.commit("g", [])
    assert groups.list() == []


def test_a_commit_that_fails_makes_no_group(groups: Groups[Member], topic_id: str) -> None:
    with pytest.raises(errors.PartitionNotFound):
        groups.commit("g", [(topic_id, 99, 5)])
    assert groups.list() == []
    assert groups._live == {}


def test_an_unknown_group_has_committed_nothing(groups: Groups[Member]) -> None:
    assert groups.fetch("g") == {}


def test_a_group_is_stable_while_it_has_members(groups: Groups[Member], topic_id: str) -> None:
    first, second = Member("first"), Member("second")
    leave_first = groups.join("g", first)
    leave_second = groups.join("g", second)
    view = groups.describe("g")
    assert view.state == STABLE
    assert view.protocol_type == "consumer"
    assert view.members[0] is first
    assert view.members[1] is second
    groups.commit("g", [(topic_id, 0, 5)])
    leave_first()
    assert groups.describe("g").members == (second,)
    leave_second()
    assert groups.describe("g").state == EMPTY
    assert EMPTY != DEAD


def test_a_group_without_commits_goes_with_its_last_member(groups: Groups[Member]) -> None:
    leaves = [groups.join("g", Member("m")) for _ in range(2)]
    leaves[0]()
    assert listed(groups) == [("g", STABLE, 1)]
    leaves[1]()
    assert listed(groups) == []
    with pytest.raises(errors.GroupNotFound):
        groups.describe("g")
    assert groups._live == {}


def test_leaving_twice_is_leaving_once(groups: Groups[Member]) -> None:
    leave = groups.join("g", Member("same"))
    groups.join("g", Member("same"))
    leave()
    leave()
    assert listed(groups) == [("g", STABLE, 1)]


def test_leaving_a_group_does_not_touch_one_of_the_same_name_made_later(groups: Groups[Member]) -> None:
    leave = groups.join("g", Member("old"))
    leave()
    groups.join("g", Member("new"))
    leave()
    assert [member.member_id for member in groups.describe("g").members] == ["new"]


def test_groups_are_listed_by_id(groups: Groups[Member], topic_id: str) -> None:
    groups.commit("c", [(topic_id, 0, 1)])
    groups.join("b", Member("m"))
    groups.commit("a", [(topic_id, 0, 1)])
    assert listed(groups) == [("a", EMPTY, 0), ("b", STABLE, 1), ("c", EMPTY, 0)]


def test_deleting_a_group_forgets_what_it_committed(groups: Groups[Member], topic_id: str) -> None:
    groups.commit("g", [(topic_id, 0, 5)])
    groups.delete("g")
    assert groups.list() == []
    assert groups.fetch("g") == {}
    with pytest.raises(errors.GroupNotFound):
        groups.delete("g")
    assert groups._live == {}


def test_a_group_with_members_is_not_deleted(groups: Groups[Member], topic_id: str) -> None:
    groups.commit("g", [(topic_id, 0, 5)])
    leave = groups.join("g", Member("m"))
    with pytest.raises(errors.GroupNotEmpty):
        groups.delete("g")
    assert groups.fetch("g") == {(topic_id, 0): 5}
    leave()
    groups.delete("g")


def test_a_deletion_that_fails_leaves_the_group_as_it_was(
    groups: Groups[Member], metadata: Metadata, topic_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups.commit("g", [(topic_id, 0, 5)])

    def fail(_: str) -> bool:
        raise errors.DiskFull("full")

    with monkeypatch.context() as broken:
        broken.setattr(metadata, "delete_group", fail)
        with pytest.raises(errors.DiskFull):
            groups.delete("g")
    assert listed(groups) == [("g", EMPTY, 0)]
    groups.join("g", Member("m"))
    groups.commit("g", [(topic_id, 0, 6)])


def test_there_are_never_more_groups_than_the_limit(groups: Groups[Member], topic_id: str) -> None:
    groups.commit("committed", [(topic_id, 0, 1)])
    leave = groups.join("joined", Member("m"))
    groups.join("committed", Member("m"))
    groups.commit("third", [(topic_id, 0, 1)])
    with pytest.raises(errors.LimitReached) as caught:
        groups.commit("fourth", [(topic_id, 0, 1)])
    assert caught.value.fields["limit"] == "max_groups"
    with pytest.raises(errors.LimitReached):
        groups.join("fourth", Member("m"))
    groups.commit("third", [(topic_id, 0, 2)])
    groups.join("third", Member("m"))
    leave()
    groups.join("fourth", Member("m"))
    assert [name for name, _, _ in listed(groups)] == ["committed", "fourth", "third"]
    with pytest.raises(errors.LimitReached):
        groups.join("fifth", Member("m"))


def test_a_topic_that_is_forgotten_takes_groups_along_that_had_nothing_else(
    groups: Groups[Member], metadata: Metadata, topic_id: str
) -> None:
    groups.commit("g", [(topic_id, 0, 5)])
    metadata.forget_topic(topic_id)
    assert groups.list() == []
