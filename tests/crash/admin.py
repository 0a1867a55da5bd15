"""The administrator: log starts, configs, times, and a topic that comes and goes under one name."""

from __future__ import annotations

import time

import grpc

from takhin.v1 import takhin_pb2 as pb

from . import values
from .consumers import Reader
from .victim import status_of
from .worker import Run

CHURN = "churn"
SEGMENT_BYTES = "segment.bytes"


def config_key(topic: str) -> str:
    return f"config/{topic}/{SEGMENT_BYTES}"


class Admin(Reader):
    def __init__(self, run: Run, name: str) -> None:
        super().__init__(run, name)
        self._incarnation = 0
        self._sequence = 0

    def step(self) -> None:
        self.random.choice(
            (
                self._delete_records,
                self._alter,
                self._describe,
                self._look,
                self._find_time,
                self._find_time,
                self._churn,
            )
        )()
        self.pause(0.1)

    def set_up(self) -> None:
        """Make the topics of the run; the server serves."""
        for topic in (self.shared.keep, self.shared.trim):
            configs = {"retention.ms": "-1", SEGMENT_BYTES: "8192"}
            self.history.ok(self.history.invoke(self.name, "set", key=config_key(topic.name), value="8192"))
            self.link.stub.CreateTopic(
                pb.CreateTopicRequest(name=topic.name, num_partitions=topic.partitions, configs=configs), timeout=30
            )

    def _delete_records(self) -> None:
        topic, partition = self.shared.trim.name, self.random.randrange(self.shared.trim.partitions)
        found = self.offsets(topic, partition)
        if found is None or found[1] - found[0] < 100:
            return
        offset = self.random.randint(found[0], (found[0] + found[1]) // 2)
        place = {"topic": topic, "partition": partition, "offset": offset}
        op = self.history.invoke(self.name, "delete_records", **place)
        request = pb.DeleteRecordsRequest(offsets=[pb.TopicPartitionOffset(**place)])
        answer = self.call(op, self.link.stub.DeleteRecords, request, 20)
        if answer is not None:
            self.history.ok(op, start=answer.log_start_offsets[0].offset)

    def _alter(self) -> None:
        topic = self.random.choice((self.shared.keep, self.shared.trim)).name
        value = str(self.random.choice((2048, 4096, 8192, 16384)))
        op = self.history.invoke(self.name, "set", key=config_key(topic), value=value)
        request = pb.AlterTopicConfigsRequest(topic=topic, set={SEGMENT_BYTES: value})
        if self.call(op, self.link.stub.AlterTopicConfigs, request, 20) is not None:
            self.history.ok(op)

    def _describe(self) -> None:
        for topic in (self.shared.keep.name, self.shared.trim.name):
            op = self.history.invoke(self.name, "get", key=config_key(topic))
            request = pb.DescribeTopicConfigsRequest(topic=topic)
            answer = self.call(op, self.link.stub.DescribeTopicConfigs, request, 20)
            if answer is not None:
                self.history.ok(op, value={entry.name: entry.value for entry in answer.configs}[SEGMENT_BYTES])

    def _look(self) -> None:
        for topic in (self.shared.keep, self.shared.trim):
            for partition in range(topic.partitions):
                self.offsets(topic.name, partition)

    def _find_time(self) -> None:
        topic = self.random.choice((self.shared.keep, self.shared.trim))
        place = {"topic": topic.name, "partition": self.random.randrange(topic.partitions)}
        at = int(time.time() * 1000) - self.random.randrange(-1000, 8000)
        op = self.history.invoke(self.name, "find_time", **place, time=at)
        request = pb.ListOffsetsRequest(queries=[pb.ListOffsetsRequest.Query(**place, timestamp=at)])
        answer = self.call(op, self.link.stub.ListOffsets, request, 10)
        if answer is not None:
            self.history.ok(op, offset=answer.results[0].offset, timestamp=answer.results[0].timestamp)

    # -- a topic that comes and goes ------------------------------------------------------------

    def _churn(self) -> None:
        """Make it, see that it is empty, write, read, remove it, see that it is gone."""
        key = f"topic/{CHURN}"
        create = pb.CreateTopicRequest(name=CHURN, num_partitions=1, configs={"retention.ms": "-1"})
        if not self._set_topic(key, True, self.link.stub.CreateTopic, create, "ALREADY_EXISTS"):
            return
        self._incarnation += 1
        self._list(key)
        for _ in range(self.random.randrange(1, 5)):
            self._produce()
            self._read()
        delete = pb.DeleteTopicRequest(name=CHURN)
        if self._set_topic(key, None, self.link.stub.DeleteTopic, delete, "NOT_FOUND"):
            self._list(key)

    def _set_topic(self, key: str, value: object, method: object, request: object, done_already: str) -> bool:
        """Until it is certain; False when the run is over before."""
        while not self.stopping:
            op = self.history.invoke(self.name, "set", key=key, value=value)
            try:
                method(request, timeout=30, wait_for_ready=True)  # type: ignore[operator]
            except grpc.RpcError as error:
                if status_of(error)[0] == done_already:
                    # What an earlier try did, of which the answer was lost; or what it was to begin with.
                    self.history.ok(op)
                    return True
                self.failed(op, error)
            else:
                self.history.ok(op)
                return True
        return False

    def _list(self, key: str) -> None:
        op = self.history.invoke(self.name, "get", key=key)
        answer = self.call(op, self.link.stub.ListTopics, pb.ListTopicsRequest(), 10)
        if answer is not None:
            self.history.ok(op, value=True if CHURN in answer.topics else None)

    def _produce(self) -> None:
        identity, value = values.make(self.name, self._sequence, values.padding(self.random))
        self._sequence += 1
        asked = {"topic": f"{CHURN}#{self._incarnation}", "partition": 0, "acks": -1, "values": [identity]}
        op = self.history.invoke(self.name, "produce", **asked)
        request = pb.ProduceMessageRequest(topic=CHURN, partition=0, record=pb.Record(value=value))
        answer = self.call(op, self.link.stub.ProduceMessage, request, 5)
        if answer is not None:
            self.history.ok(op, partition=0, base=answer.offset)

    def _read(self) -> None:
        place = {"partition": 0, "offset": 0}
        op = self.history.invoke(self.name, "stream", topic=f"{CHURN}#{self._incarnation}", **place, until_end=True)
        self.follow(op, pb.ConsumeMessagesRequest(topic=CHURN, **place, until_end=True), 10)
