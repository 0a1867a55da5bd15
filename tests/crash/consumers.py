"""Consumers: those that follow a partition, those that read again, those that commit for a group."""

from __future__ import annotations

from typing import Any

import grpc

from takhin.v1 import takhin_pb2 as pb

from .values import identity_of
from .victim import DEFINITE, status_of
from .worker import Run, Topic, Worker


def listed(records: Any) -> list[list[Any]]:
    """As a history has them: [[offset, identity, timestamp]]."""
    return [[record.offset, identity_of(record.value), record.timestamp] for record in records]


class Reader(Worker):
    def follow(self, op: int, request: Any, timeout: float) -> tuple[int, bool]:
        """Read a stream until it ends; gives the next position, -1 when nothing was read, and whether it ended well."""
        position = -1
        try:
            for answer in self.link.stub.ConsumeMessages(request, timeout=timeout, wait_for_ready=True):
                self.history.note(
                    "read",
                    op=op,
                    records=listed(answer.records),
                    hw=answer.high_watermark,
                    start=answer.log_start_offset,
                )
                if answer.records:
                    position = answer.records[-1].offset + 1
                if self.stopping:
                    break
            else:
                self.history.ok(op, position=position)
                return position, True
        except grpc.RpcError as error:
            status, reason, fields = status_of(error)
            if status == "OUT_OF_RANGE":
                start, hw = int(fields["log_start_offset"]), int(fields["high_watermark"])
                self.history.note("out_of_range", op=op, position=int(fields["offset"]), hw=hw, start=start)
                position = min(max(int(fields["offset"]), start), hw)
            (self.history.fail if status in DEFINITE else self.history.info)(op, status, reason)
        return position, False

    def offsets(self, topic: str, partition: int) -> tuple[int, int] | None:
        """(log start, high watermark)."""
        place = {"topic": topic, "partition": partition}
        op = self.history.invoke(self.name, "offsets", **place)
        answer = self.call(op, self.link.stub.GetPartitionOffsets, pb.GetPartitionOffsetsRequest(**place), 10)
        if answer is None:
            return None
        self.history.ok(op, hw=answer.end_offset, start=answer.beginning_offset)
        return answer.beginning_offset, answer.end_offset


class Tailer(Reader):
    """Follows a partition from its beginning, over all breaks, at the position that it remembers."""

    def __init__(self, run: Run, name: str, topic: Topic, partition: int) -> None:
        super().__init__(run, name)
        self._topic, self._partition = topic.name, partition
        self._position = 0

    def step(self) -> None:
        place = {"topic": self._topic, "partition": self._partition, "offset": self._position}
        op = self.history.invoke(self.name, "stream", **place)
        request = pb.ConsumeMessagesRequest(
            **place,
            max_bytes=self.random.choice((0, 500, 20_000)),
            min_bytes=self.random.choice((0, 4096)),
            max_wait_ms=100,
            heartbeat_ms=300,
        )
        position, _ = self.follow(op, request, self.random.uniform(0.5, 8))
        if position >= 0:
            self._position = position
        self.pause(0.05)


class Rereader(Reader):
    """Reads from some place, some records or to the end."""

    def step(self) -> None:
        topic = self.random.choice((self.shared.keep, self.shared.trim))
        partition = self.random.randrange(topic.partitions)
        found = self.offsets(topic.name, partition)
        if found is not None:
            start, hw = found
            to_end = self.random.random() < 0.5
            low = max(start, hw - 150) if to_end else start
            place = {"topic": topic.name, "partition": partition, "offset": self.random.randint(low, max(hw, low))}
            op = self.history.invoke(self.name, "stream", **place, until_end=to_end)
            request = pb.ConsumeMessagesRequest(
                **place,
                until_end=True,
                max_records=0 if to_end else self.random.randrange(1, 100),
                max_bytes=self.random.choice((0, 300, 9000)),
            )
            self.follow(op, request, 10)
        self.pause(0.3)


class GroupReader(Reader):
    """Reads some partitions for a group, and commits its places in all of them at once."""

    def __init__(self, run: Run, name: str, group: str, partitions: tuple[int, ...]) -> None:
        super().__init__(run, name)
        self._group, self._partitions = group, partitions

    def key(self, partition: int) -> str:
        return f"commit/{self._group}/{self.shared.keep.name}/{partition}"

    def step(self) -> None:
        positions = self._fetch()
        if positions is None:
            self.pause(0.1)
            return
        for partition in self._partitions:
            place = {"topic": self.shared.keep.name, "partition": partition, "offset": 0}
            op = self.history.invoke(self.name, "stream", **place, group=self._group, key=self.key(partition))
            request = pb.ConsumeMessagesRequest(
                **place, group_id=self._group, until_end=True, max_records=self.random.randrange(1, 60)
            )
            position, _ = self.follow(op, request, 10)
            positions[partition] = max(position, positions[partition])
        if self.random.random() < 0.05:  # a reset
            positions = {partition: self.random.randint(0, position) for partition, position in positions.items()}
        self._commit(positions)
        self.pause(0.15)

    def _fetch(self) -> dict[int, int] | None:
        ops = {n: self.history.invoke(self.name, "get", key=self.key(n)) for n in self._partitions}
        asked = [pb.TopicPartition(topic=self.shared.keep.name, partition=n) for n in self._partitions]
        try:
            answer = self.link.stub.FetchCommittedOffsets(
                pb.FetchCommittedOffsetsRequest(group_id=self._group, partitions=asked), timeout=10, wait_for_ready=True
            )
        except grpc.RpcError as error:
            for op in ops.values():
                self.failed(op, error)
            return None
        found = {each.partition: each.offset for each in answer.offsets}
        for partition, op in ops.items():
            self.history.ok(op, value=found[partition] if found[partition] >= 0 else None)
        return {partition: max(found[partition], 0) for partition in self._partitions}

    def _commit(self, positions: dict[int, int]) -> None:
        ops = [self.history.invoke(self.name, "set", key=self.key(n), value=at) for n, at in positions.items()]
        offsets = [
            pb.TopicPartitionOffset(topic=self.shared.keep.name, partition=n, offset=at) for n, at in positions.items()
        ]
        request = pb.CommitOffsetRequest(group_id=self._group, offsets=offsets)
        try:
            self.link.stub.CommitOffset(request, timeout=20, wait_for_ready=True)
        except grpc.RpcError as error:
            for op in ops:
                self.failed(op, error)
        else:
            for op in ops:
                self.history.ok(op)
