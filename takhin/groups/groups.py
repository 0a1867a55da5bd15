"""The consumer groups of this server.

Members live in memory: they are streams that are open now. Committed offsets live in the
metadata. A group exists while it has either.

Locking: one lock guards members, commits under way and deletions. It is never held across a
write to the metadata. While a group is being deleted, whoever would join or commit to it
waits: else a member could come, read old offsets and see a commit of its own deleted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from .. import errors
from .ids import check_group_id

if TYPE_CHECKING:
    from ..config import LimitsConfig
    from ..metadata import Metadata

#: Kafka's names of a group's states. A group with members is stable: nothing is rebalanced here.
STABLE = "Stable"
EMPTY = "Empty"
DEAD = "Dead"
PROTOCOL_TYPE = "consumer"


class Member(Protocol):
    """What a group needs to know of a member. The object is the caller's, and given back as it is."""

    @property
    def member_id(self) -> str: ...


M = TypeVar("M", bound=Member)


@dataclass(frozen=True, slots=True)
class GroupView(Generic[M]):
    """A group as it was at one moment."""

    group_id: str
    members: tuple[M, ...]
    protocol_type: str = PROTOCOL_TYPE

    @property
    def state(self) -> str:
        return STABLE if self.members else EMPTY


class _Live(Generic[M]):
    """What there is of a group in memory; dropped when nothing is."""

    __slots__ = ("commits", "deleting", "members")

    def __init__(self) -> None:
        #: By a key of their own, in order of joining: two members may call themselves the same.
        self.members: dict[object, M] = {}
        #: Commits under way.
        self.commits = 0
        self.deleting = False

    @property
    def idle(self) -> bool:
        return not (self.members or self.commits or self.deleting)


class Groups(Generic[M]):
    def __init__(self, metadata: Metadata, limits: LimitsConfig) -> None:
        self._metadata = metadata
        self._limits = limits
        self._lock = threading.Lock()
        self._deleted = threading.Condition(self._lock)
        self._live: dict[str, _Live[M]] = {}

    def set_limits(self, limits: LimitsConfig) -> None:
        """For new groups; those that are there stay."""
        self._limits = limits

    # -- members ------------------------------------------------------------------------------

    def join(self, group_id: str, member: M) -> Callable[[], None]:
        """Count ``member`` until the callable that it gives is called (idempotent, from any thread).

        Raises ``InvalidGroupId``, ``LimitReached``.
        """
        check_group_id(group_id)
        key = object()
        with self._lock:
            self._enter(group_id).members[key] = member

        def leave() -> None:
            with self._lock:
                live = self._live.get(group_id)
                if live is not None and live.members.pop(key, None) is not None:
                    self._drop_if_idle(group_id, live)

        return leave

    # -- offsets ------------------------------------------------------------------------------

    def commit(self, group_id: str, offsets: Sequence[tuple[str, int, int]]) -> None:
        """Keep (topic_id, partition, next offset to read): all or none, on stable storage when it returns.

        Raises ``InvalidGroupId``, ``LimitReached``, and what ``Metadata.commit_offsets`` raises.
        """
        check_group_id(group_id)
        with self._committing(group_id):
            self._metadata.commit_offsets(group_id, offsets)

    def fetch(self, group_id: str) -> dict[tuple[str, int], int]:
        """(topic_id, partition) -> committed offset. An unknown group has committed nothing.

        Raises ``InvalidGroupId``.
        """
        check_group_id(group_id)
        return self._metadata.committed_offsets(group_id)

    # -- groups -------------------------------------------------------------------------------

    def list(self) -> list[GroupView[M]]:
        """All groups, by id."""
        with self._lock:
            committed = self._metadata.group_ids()
            members = {group_id: tuple(live.members.values()) for group_id, live in self._live.items() if live.members}
        return [GroupView(group_id, members.get(group_id, ())) for group_id in sorted({*committed, *members})]

    def describe(self, group_id: str) -> GroupView[M]:
        """Raises ``GroupNotFound``; ``InvalidGroupId``."""
        check_group_id(group_id)
        with self._lock:
            live = self._live.get(group_id)
            members = tuple(live.members.values()) if live is not None else ()
            if not members and not self._metadata.has_group(group_id):
                raise _not_found(group_id)
        return GroupView(group_id, members)

    def delete(self, group_id: str) -> None:
        """Forget a group without members and all it has committed.

        Raises ``GroupNotFound``, ``GroupNotEmpty``, ``InvalidGroupId``, and what a write to the
        metadata raises.
        """
        check_group_id(group_id)
        with self._lock:
            self._wait_for_deletion(group_id)
            live = self._live.get(group_id)
            if live is not None and live.members:
                count = len(live.members)
                raise errors.GroupNotEmpty(f"group {group_id!r} has {count} members", group_id=group_id, members=count)
            if live is None:
                live = self._live[group_id] = _Live()
            live.deleting = True
        try:
            found = self._metadata.delete_group(group_id)
        finally:
            with self._lock:
                live.deleting = False
                self._drop_if_idle(group_id, live)
                self._deleted.notify_all()
        if not found:
            raise _not_found(group_id)

    # -- inside: the caller holds the lock ----------------------------------------------------

    def _enter(self, group_id: str) -> _Live[M]:
        """The group, to be joined or committed to; made if there is room for one more."""
        self._wait_for_deletion(group_id)
        live = self._live.get(group_id)
        if live is None:
            self._check_limit(group_id)
            live = self._live[group_id] = _Live()
        return live

    def _wait_for_deletion(self, group_id: str) -> None:
        while (live := self._live.get(group_id)) is not None and live.deleting:
            self._deleted.wait()

    def _check_limit(self, group_id: str) -> None:
        limit = self._limits.max_groups
        # Many groups are counted twice here: only near the limit does it have to be exact.
        if self._metadata.group_count() + len(self._live) < limit or self._metadata.has_group(group_id):
            return
        known = len({*self._metadata.group_ids(), *self._live})
        if known >= limit:
            raise errors.LimitReached(
                f"there are {known} groups already; limits.max_groups allows {limit}",
                limit="max_groups",
                value=limit,
            )

    def _drop_if_idle(self, group_id: str, live: _Live[M]) -> None:
        if live.idle and self._live.get(group_id) is live:
            del self._live[group_id]

    @contextmanager
    def _committing(self, group_id: str) -> Iterator[None]:
        """Takes and gives back the lock itself."""
        with self._lock:
            live = self._enter(group_id)
            live.commits += 1
        try:
            yield
        finally:
            with self._lock:
                live.commits -= 1
                self._drop_if_idle(group_id, live)


def _not_found(group_id: str) -> errors.GroupNotFound:
    return errors.GroupNotFound(f"group {group_id!r} does not exist", group_id=group_id)
