"""The engine interface: consumer groups and their offsets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from takhin import errors
from takhin.config import Config, LimitsConfig
from takhin.engine.base import Engine, GroupMember

from .harness import append


@pytest.fixture
def filled(engine: Engine) -> Engine:
    engine.create_topic("t", 2, 1, {})
    for n in range(5):
        append(engine, "t", 0, b"%d" % n)
    return engine


def member(topic: str = "t", partition: int = 0) -> GroupMember:
    return GroupMember("m-1", "client", "127.0.0.1", topic, partition, 3)


def test_committed_offsets_are_given_back(filled: Engine) -> None:
    filled.commit_offsets("g", [("t", 1, 0), ("t", 0, 3)])
    assert filled.committed_offsets("g", None) == [("t", 0, 3), ("t", 1, 0)]
    assert filled.committed_offsets("g", [("t", 1), ("t", 0)]) == [("t", 1, 0), ("t", 0, 3)]
    filled.commit_offsets("g", [("t", 0, 4)])
    assert filled.committed_offsets("g", [("t", 0)]) == [("t", 0, 4)]


def test_a_group_that_committed_nothing_has_minus_one(filled: Engine) -> None:
    assert filled.committed_offsets("g", [("t", 0)]) == [("t", 0, -1)]
    assert filled.committed_offsets("g", None) == []
    assert filled.groups() == []


def test_all_offsets_of_a_commit_are_kept_or_none(filled: Engine) -> None:
    with pytest.raises(errors.PartitionNotFound):
        filled.commit_offsets("g", [("t", 0, 1), ("t", 2, 1)])
    with pytest.raises(errors.InvalidOffset):
        filled.commit_offsets("g", [("t", 0, 1), ("t", 1, -1)])
    assert filled.committed_offsets("g", None) == []
    assert filled.groups() == []


@pytest.mark.parametrize("group_id", ["", "x" * 65536, "a\0b", "a\nb"])
def test_a_bad_group_id_is_refused(filled: Engine, group_id: str) -> None:
    with pytest.raises(errors.InvalidGroupId):
        filled.commit_offsets(group_id, [("t", 0, 1)])
    with pytest.raises(errors.InvalidGroupId):
        filled.join_group(group_id, member())
    with pytest.raises(errors.InvalidGroupId):
        filled.committed_offsets(group_id, None)
    assert filled.groups() == []


def test_a_group_is_described_with_its_offsets_and_lag(filled: Engine) -> None:
    filled.commit_offsets("g", [("t", 0, 3), ("t", 1, 0)])
    group = filled.describe_group("g")
    assert (group.group_id, group.state, group.members) == ("g", "Empty", ())
    found = [(o.topic, o.partition, o.committed_offset, o.log_end_offset, o.lag) for o in group.offsets]
    assert found == [("t", 0, 3, 5, 2), ("t", 1, 0, 0, 0)]


def test_members_come_and_go(filled: Engine) -> None:
    joined = member()
    leave = filled.join_group("g", joined)
    [listed] = filled.groups()
    assert (listed.group_id, listed.state, len(listed.members)) == ("g", "Stable", 1)
    joined.position = 4
    [described] = filled.describe_group("g").members
    assert (described.member_id, described.client_id, described.client_host) == ("m-1", "client", "127.0.0.1")
    assert (described.topic, described.partition, described.position) == ("t", 0, 4)
    leave()
    leave()
    # Without offsets and members nothing is left of it.
    assert filled.groups() == []


def test_a_group_with_members_is_not_deleted(filled: Engine) -> None:
    filled.commit_offsets("g", [("t", 0, 3)])
    leave = filled.join_group("g", member())
    with pytest.raises(errors.GroupNotEmpty):
        filled.delete_group("g")
    leave()
    filled.delete_group("g")
    assert filled.groups() == []
    assert filled.committed_offsets("g", None) == []


def test_a_group_that_is_not_there_is_not_found(engine: Engine) -> None:
    with pytest.raises(errors.GroupNotFound):
        engine.describe_group("none")
    with pytest.raises(errors.GroupNotFound):
        engine.delete_group("none")


def test_groups_are_listed_by_id(filled: Engine) -> None:
    for group_id in ("b", "a", "c"):
        filled.commit_offsets(group_id, [("t", 0, 1)])
    assert [group.group_id for group in filled.groups()] == ["a", "b", "c"]


def test_a_deleted_topics_offsets_are_forgotten(filled: Engine) -> None:
    filled.commit_offsets("g", [("t", 0, 3)])
    filled.delete_topic("t")
    filled.create_topic("t", 1, 1, {})
    assert filled.committed_offsets("g", [("t", 0)]) == [("t", 0, -1)]


def test_the_number_of_groups_is_bounded(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(Config(limits=LimitsConfig(max_groups=2)))
    engine.create_topic("t", 1, 1, {})
    for group_id in ("a", "b", "a"):
        engine.commit_offsets(group_id, [("t", 0, 0)])
    with pytest.raises(errors.LimitReached):
        engine.commit_offsets("c", [("t", 0, 0)])
    assert [group.group_id for group in engine.groups()] == ["a", "b"]
