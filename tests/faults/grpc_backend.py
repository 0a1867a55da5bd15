"""A server over gRPC, as what a workload runs against."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from takhin import errors
from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc

from .backend import PATIENCE_S, Record, Seen

#: What a call failed with, for those who look at the kind of failure.
KINDS: dict[grpc.StatusCode, type[errors.TakhinError]] = {
    grpc.StatusCode.NOT_FOUND: errors.TopicNotFound,
    grpc.StatusCode.OUT_OF_RANGE: errors.OffsetOutOfRange,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Timeout,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.UNKNOWN: errors.DurabilityUnknown,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
}


def raised(error: grpc.RpcError) -> errors.TakhinError:
    call: Any = error
    return KINDS.get(call.code(), errors.Internal)(f"{call.code().name}: {call.details()}")


class GrpcBackend:
    def __init__(self, channel: grpc.Channel) -> None:
        self._stub: Any = takhin_pb2_grpc.TakhinServiceStub(channel)

    def _call(self, method: str, request: Any) -> Any:
        call: Callable[..., Any] = getattr(self._stub, method)
        try:
            return call(request, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            raise raised(error) from error

    def create_topic(self, name: str, partitions: int, configs: dict[str, str]) -> None:
        self._call("CreateTopic", pb.CreateTopicRequest(name=name, num_partitions=partitions, configs=configs))

    def delete_topic(self, name: str) -> None:
        self._call("DeleteTopic", pb.DeleteTopicRequest(name=name))

    def create_partitions(self, name: str, total: int) -> None:
        self._call("CreatePartitions", pb.CreatePartitionsRequest(topic=name, num_partitions=total))

    def topics(self) -> dict[str, int]:
        found = self._call("DescribeTopics", pb.DescribeTopicsRequest())
        return {topic.name: topic.num_partitions for topic in found.topics}

    def produce(
        self, topic: str, partition: int, records: list[Record], acks: int, stamp: tuple[int, int, int] | None = None
    ) -> tuple[int, int]:
        request = pb.ProduceBatchRequest(
            topic=topic,
            partition=partition,
            required_acks=acks,
            records=[pb.Record(key=key, value=value, timestamp=time) for key, value, time in records],
        )
        if stamp is not None:
            request.producer_id, request.producer_epoch, request.base_sequence = stamp
        answer = self._call("ProduceBatch", request)
        return answer.base_offset, answer.last_offset

    def _consume(self, topic: str, partition: int, offset: int, until_end: bool) -> Any:
        request = pb.ConsumeMessagesRequest(
            topic=topic, partition=partition, offset=offset, max_bytes=4000, until_end=until_end
        )
        return self._stub.ConsumeMessages(request, timeout=None if not until_end else PATIENCE_S)

    def read(self, topic: str, partition: int, offset: int) -> Seen:
        stream = self._consume(topic, partition, offset, until_end=True)
        try:
            for response in stream:
                if response.records:
                    return [(record.offset, record.value) for record in response.records]
        except grpc.RpcError as error:
            raise raised(error) from error
        finally:
            stream.cancel()
        return []

    def tail(self, topic: str, partition: int, offset: int, stop: threading.Event) -> Iterator[Seen]:
        stream = self._consume(topic, partition, offset, until_end=False)
        over = threading.Event()

        def cancel_at_end() -> None:
            while not (stop.wait(0.02) or over.is_set()):
                pass
            stream.cancel()

        waiter = threading.Thread(target=cancel_at_end, daemon=True)
        waiter.start()
        try:
            for response in stream:
                if response.records:
                    yield [(record.offset, record.value) for record in response.records]
        except grpc.RpcError as error:
            raise raised(error) from error
        finally:
            over.set()
            waiter.join()

    def watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        found = self._call("GetPartitionOffsets", pb.GetPartitionOffsetsRequest(topic=topic, partition=partition))
        return found.beginning_offset, found.end_offset

    def commit(self, group: str, topic: str, partition: int, offset: int) -> None:
        place = pb.TopicPartitionOffset(topic=topic, partition=partition, offset=offset)
        self._call("CommitOffset", pb.CommitOffsetRequest(group_id=group, offsets=[place]))

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        found = self._call("FetchCommittedOffsets", pb.FetchCommittedOffsetsRequest(group_id=group))
        return {(place.topic, place.partition): place.offset for place in found.offsets}

    def trim(self, topic: str, partition: int, offset: int) -> int:
        place = pb.TopicPartitionOffset(topic=topic, partition=partition, offset=offset)
        answer = self._call("DeleteRecords", pb.DeleteRecordsRequest(offsets=[place]))
        start: int = answer.log_start_offsets[0].offset
        return start

    def new_producer(self) -> tuple[int, int]:
        answer = self._call("InitProducerId", pb.InitProducerIdRequest())
        return answer.producer_id, answer.producer_epoch
