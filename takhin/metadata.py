"""Metadata: topics, committed offsets, log start offsets and producer ids, in one SQLite file.

Reads are answered from memory and never wait for the disk. Whatever changes something returns
once it is on stable storage; offset commits that come together share one transaction and one
flush. All methods are safe to call from many threads, and raise ``errors.TakhinError`` only.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from . import errors
from .clock import Clock
from .metadata_files import NEXT_PRODUCER_ID
from .metadata_model import Model, TopicRow
from .metadata_queue import CommitQueue, Ticket
from .metadata_schema import COMMITTED_OFFSETS, COUNTERS, LOG_STARTS, PRODUCERS, TOPICS, Key, Row
from .metadata_store import MetadataStore

__all__ = ["MAX_PRODUCER_EPOCH", "Metadata", "TopicRow"]

#: Epochs are 16-bit signed integers in a record batch.
MAX_PRODUCER_EPOCH = 32767
_MAX_OFFSET = (1 << 63) - 1
_MAX_PARTITION = (1 << 31) - 1

#: What a change writes: the new row, or None to delete.
Writes = dict[Key, Row | None]
#: Looks at what is committed and says what to write; raises to refuse. Runs on the committing thread.
Work = Callable[[Model], Writes]


class Metadata:
    """``path`` is the database file; ``clock`` dates new topics."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        self._store = MetadataStore(path, clock)
        self._model = Model()
        #: Guards the model against its being changed while it is read.
        self._lock = threading.Lock()
        self._queue: CommitQueue[Work] = CommitQueue(self._commit)

    # -- life ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Check and read the database; make it where there is none.

        Raises ``MetadataDamaged`` (the message names the file and the way out), ``DataDirLocked``,
        ``DiskFull``.
        """
        model = Model()
        for key, row in self._store.open():
            model.apply(key, row)
        with self._lock:
            self._model = model
        self._queue.open()

    def close(self) -> None:
        """Finish what was begun, refuse the rest with ``Unavailable``. Idempotent."""
        self._queue.shut()
        self._store.close()

    @property
    def server_id(self) -> str:
        """32 hexadecimal digits, made when the database was."""
        return self._store.state.server_id

    @property
    def offline_reason(self) -> str:
        """Why nothing can be changed until a restart; empty while all is well."""
        return self._store.offline_reason

    # -- topics -------------------------------------------------------------------------------

    def topics(self) -> list[TopicRow]:
        """All, those being deleted included, by name."""
        with self._lock:
            return [topic.copy() for _, topic in sorted((topic.name, topic) for topic in self._model.topics.values())]

    def create_topic(self, name: str, num_partitions: int, configs: dict[str, str]) -> TopicRow:
        """Raises ``TopicAlreadyExists``: also while an older topic of that name is being deleted."""
        topic = TopicRow(uuid.uuid4().hex, name, num_partitions, dict(configs), self._clock.now_ms(), deleting=False)

        def work(model: Model) -> Writes:
            if name in model.topic_ids:
                raise errors.TopicAlreadyExists(f"topic {name} exists already", topic=name)
            return {(TOPICS.name, topic.topic_id): topic.to_row()}

        self._run(work)
        return topic.copy()

    def set_num_partitions(self, topic_id: str, num_partitions: int) -> None:
        """Raises ``TopicNotFound``."""
        self._alter_topic(
            topic_id,
            lambda topic: TopicRow(
                topic_id, topic.name, num_partitions, topic.configs, topic.created_ms, topic.deleting
            ),
        )

    def set_configs(self, topic_id: str, configs: dict[str, str]) -> None:
        """Put these in the place of all that was set on the topic. Raises ``TopicNotFound``."""
        fresh = dict(configs)
        self._alter_topic(
            topic_id,
            lambda topic: TopicRow(topic_id, topic.name, topic.num_partitions, fresh, topic.created_ms, topic.deleting),
        )

    def mark_deleting(self, topic_id: str) -> None:
        """The deletion has begun: it will be finished, if need be after a restart. Raises ``TopicNotFound``."""
        self._alter_topic(
            topic_id,
            lambda topic: TopicRow(
                topic_id, topic.name, topic.num_partitions, topic.configs, topic.created_ms, deleting=True
            ),
        )

    def forget_topic(self, topic_id: str) -> None:
        """Take the topic away with its log starts and what groups committed on it, at once. Idempotent."""
        self._run(lambda model: dict.fromkeys(model.topic_keys(topic_id)))

    def _alter_topic(self, topic_id: str, alter: Callable[[TopicRow], TopicRow]) -> None:
        def work(model: Model) -> Writes:
            topic = model.topics.get(topic_id)
            if topic is None:
                raise errors.TopicNotFound(f"there is no topic with id {topic_id}", topic_id=topic_id)
            return {(TOPICS.name, topic_id): alter(topic).to_row()}

        self._run(work)

    # -- log start offsets --------------------------------------------------------------------

    def log_start_offsets(self) -> dict[tuple[str, int], int]:
        """(topic_id, partition) -> first offset that may be read, where it was ever moved."""
        with self._lock:
            return {
                (topic_id, partition): offset
                for topic_id, partitions in self._model.log_starts.items()
                for partition, offset in partitions.items()
            }

    def set_log_start_offsets(self, offsets: Sequence[tuple[str, int, int]]) -> None:
        """Move log starts forward: all of (topic_id, partition, offset), or none. They never go back:
        the larger offset stays. Topics that have been forgotten are passed over.

        Raises ``InvalidOffset``, ``PartitionNotFound`` (a number that no partition can have).
        """
        wanted = list(offsets)
        _check_offsets(wanted)

        def work(model: Model) -> Writes:
            writes: dict[Key, Row | None] = {}
            for topic_id, partition, offset in wanted:
                if topic_id not in model.topics:
                    continue
                key = (LOG_STARTS.name, topic_id, partition)
                present = writes.get(key) or model.row(key)
                if present is None or int(present[2]) < offset:
                    writes[key] = (topic_id, partition, offset)
            return writes

        self._run(work)

    # -- committed offsets --------------------------------------------------------------------

    def commit_offsets(self, group_id: str, offsets: Sequence[tuple[str, int, int]]) -> None:
        """Keep the next offsets to read, (topic_id, partition, offset): all or none.

        Raises ``InvalidOffset``, ``InvalidGroupId`` (not Unicode), ``TopicNotFound`` (forgotten or being
        deleted), ``PartitionNotFound``, ``DiskFull``, ``DurabilityUnknown``, ``LogOffline``, ``Unavailable``.
        """
        wanted = list(offsets)
        _check_offsets(wanted)
        try:
            group_id.encode()
        except UnicodeEncodeError as error:
            raise errors.InvalidGroupId("the group id is not Unicode text", bad_field="group_id") from error

        def work(model: Model) -> Writes:
            for topic_id, partition, _ in wanted:
                topic = model.topics.get(topic_id)
                if topic is None or topic.deleting:
                    name = topic.name if topic else topic_id
                    raise errors.TopicNotFound(f"topic {name} does not exist", topic=name)
                if partition >= topic.num_partitions:
                    raise errors.PartitionNotFound(
                        f"topic {topic.name} has no partition {partition}", topic=topic.name, partition=partition
                    )
            return {
                (COMMITTED_OFFSETS.name, group_id, topic_id, partition): (group_id, topic_id, partition, offset)
                for topic_id, partition, offset in wanted
            }

        self._run(work, alone=False)

    def committed_offsets(self, group_id: str) -> dict[tuple[str, int], int]:
        """(topic_id, partition) -> next offset to read; empty for an unknown group."""
        with self._lock:
            return {
                (topic_id, partition): offset
                for topic_id, partitions in self._model.offsets.get(group_id, {}).items()
                for partition, offset in partitions.items()
            }

    def group_ids(self) -> list[str]:
        """Groups that have committed something, sorted."""
        with self._lock:
            groups = list(self._model.offsets)
        return sorted(groups)

    def has_group(self, group_id: str) -> bool:
        """Whether the group has committed something."""
        with self._lock:
            return group_id in self._model.offsets

    def group_count(self) -> int:
        """How many groups have committed something."""
        with self._lock:
            return len(self._model.offsets)

    def delete_group(self, group_id: str) -> bool:
        """Forget what a group has committed. False when there was nothing."""
        found = False

        def work(model: Model) -> Writes:
            nonlocal found
            writes: Writes = dict.fromkeys(model.group_keys(group_id))
            found = bool(writes)
            return writes

        self._run(work)
        return found

    # -- producers ----------------------------------------------------------------------------

    def new_producer(self) -> tuple[int, int]:
        """(producer_id, epoch) of a producer that never was before: ids begin at 1, epochs at 0."""
        fresh = 0

        def work(model: Model) -> Writes:
            nonlocal fresh
            fresh, writes = _new_producer(model)
            return writes

        self._run(work)
        return fresh, 0

    def bump_producer(self, producer_id: int, epoch: int) -> tuple[int, int]:
        """(producer_id, epoch + 1), if ``epoch`` is the present one; after the last epoch a new id, and
        the old one is gone.

        Raises ``UnknownProducer``, ``ProducerFenced`` (``epoch`` is not the present one).
        """
        bumped = (0, 0)

        def work(model: Model) -> Writes:
            nonlocal bumped
            present = model.producers.get(producer_id)
            if present is None:
                raise errors.UnknownProducer(f"there is no producer {producer_id}", producer_id=producer_id)
            if present != epoch:
                raise errors.ProducerFenced(
                    f"producer {producer_id} is at epoch {present}, not {epoch}",
                    producer_id=producer_id,
                    epoch=epoch,
                    present_epoch=present,
                )
            if epoch < MAX_PRODUCER_EPOCH:
                bumped = (producer_id, epoch + 1)
                return {(PRODUCERS.name, producer_id): bumped}
            fresh, writes = _new_producer(model)
            bumped = (fresh, 0)
            writes[(PRODUCERS.name, producer_id)] = None
            return writes

        self._run(work)
        return bumped

    def producer_epoch(self, producer_id: int) -> int | None:
        """The present epoch; None for an unknown producer."""
        with self._lock:
            return self._model.producers.get(producer_id)

    # -- committing ---------------------------------------------------------------------------

    def _run(self, work: Work, *, alone: bool = True) -> None:
        """``alone`` work sees everything committed before it; the rest must not look at rows that
        its companions in one transaction may write."""
        self._queue.run(work, alone=alone)

    def _commit(self, tickets: list[Ticket[Work]]) -> None:
        """One transaction for all of the tickets; one that is refused does not hinder the others."""
        writes: Writes = {}
        accepted = []
        for ticket in tickets:
            try:
                writes.update(ticket.work(self._model))
            except errors.TakhinError as error:
                ticket.error = error
            except Exception as error:
                ticket.error = errors.Internal(f"metadata: {error!r}")
                ticket.error.__cause__ = error
            else:
                accepted.append(ticket)
        changes = [(key, old, new) for key, new in writes.items() if (old := self._model.row(key)) != new]
        if not changes:
            return
        try:
            self._store.commit(changes)
            with self._lock:
                for key, _, new in changes:
                    self._model.apply(key, new)
        except errors.TakhinError as error:
            for ticket in accepted:
                # Each caller raises its own: one exception in many threads would tangle their tracebacks.
                ticket.error = type(error)(error.message, **error.fields)
                ticket.error.__cause__ = error.__cause__
        except BaseException as error:
            # Memory and database may differ now: what the next commit would say of the rows could be wrong.
            self._store.go_offline(f"a commit was broken off: {error!r}")
            for ticket in accepted:
                ticket.error = errors.DurabilityUnknown("the commit was broken off")
                ticket.error.__cause__ = error
            if not isinstance(error, Exception):
                raise


def _new_producer(model: Model) -> tuple[int, Writes]:
    fresh = model.counters[NEXT_PRODUCER_ID]
    return fresh, {
        (PRODUCERS.name, fresh): (fresh, 0),
        (COUNTERS.name, NEXT_PRODUCER_ID): (NEXT_PRODUCER_ID, fresh + 1),
    }


def _check_offsets(offsets: Sequence[tuple[str, int, int]]) -> None:
    for topic_id, partition, offset in offsets:
        if not 0 <= offset <= _MAX_OFFSET:
            raise errors.InvalidOffset(
                f"offset {offset} is not between 0 and {_MAX_OFFSET}", bad_field="offset", partition=partition
            )
        if not 0 <= partition <= _MAX_PARTITION:
            raise errors.PartitionNotFound(
                f"topic {topic_id} has no partition {partition}", topic=topic_id, partition=partition
            )
