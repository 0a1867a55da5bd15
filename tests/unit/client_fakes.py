"""A server in memory, over real gRPC on loopback, that breaks where a test tells it to."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from takhin.v1 import takhin_pb2 as pb
from takhin.v1 import takhin_pb2_grpc as pb_grpc

EARLIEST, LATEST = -1, -2


def abort(context: grpc.ServicerContext, code: str, reason: str, message: str, **fields: str) -> None:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(domain="takhin", reason=reason, metadata=fields))
    status = status_pb2.Status(code=code_pb2.Code.Value(code), message=message, details=[detail])
    context.abort_with_status(rpc_status.to_status(status))


class MemoryServer(pb_grpc.TakhinServiceServicer):
    """Topics, records and groups in memory. ``topics`` is name -> partitions -> records."""

    def __init__(self) -> None:
        self.topics: dict[str, list[list[pb.Record]]] = {}
        self.configs: dict[str, dict[str, str]] = {}
        self.groups: dict[str, dict[tuple[str, int], int]] = {}
        self.members: dict[str, int] = {}
        self.limits = {"max_message_size": 10 * 1024 * 1024}
        self.status = "healthy"
        #: What to do with the next batches of streams: None (write), "break" (end the stream),
        #: "write and break", or (code, text) for an answer with an error.
        self.batch_script: deque[Any] = deque()
        #: For each ConsumeMessages call: end with UNAVAILABLE after so many responses (None: never).
        self.consume_script: deque[int | None] = deque()
        self.consume_requests: list[pb.ConsumeMessagesRequest] = []
        self.batches: list[pb.ProduceBatchRequest] = []
        self.streams = 0
        #: A batch of a stream is answered so late, seconds.
        self.answer_after = 0.0
        self.commits: list[list[tuple[str, int, int]]] = []
        #: Responses of ConsumeMessages hold so many records.
        self.records_in_response = 2
        self._sequences: dict[tuple[int, str, int, int], int] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._pool = futures.ThreadPoolExecutor(32)
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        pb_grpc.add_TakhinServiceServicer_to_server(self, self._server)
        self.health = health.HealthServicer()
        self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._server.stop(0).wait()
        self._pool.shutdown()

    def add_topic(self, name: str, partitions: int = 1) -> None:
        self.topics[name] = [[] for _ in range(partitions)]

    def append(self, topic: str, partition: int, *records: pb.Record) -> None:
        with self._changed:
            log = self.topics[topic][partition]
            for record in records:
                stored = pb.Record()
                stored.CopyFrom(record)
                stored.offset, stored.partition = len(log), partition
                stored.timestamp = stored.timestamp or time.time_ns() // 1_000_000
                log.append(stored)
            self._changed.notify_all()

    def values(self, topic: str) -> list[bytes]:
        return [record.value for log in self.topics[topic] for record in log]

    def _log(self, context: grpc.ServicerContext, topic: str, partition: int) -> list[pb.Record]:
        if topic not in self.topics:
            abort(context, "NOT_FOUND", "TOPIC_NOT_FOUND", f"topic {topic} not found", topic=topic)
        if not 0 <= partition < len(self.topics[topic]):
            abort(context, "NOT_FOUND", "PARTITION_NOT_FOUND", f"partition {partition} not found")
        return self.topics[topic][partition]

    # -- topics -------------------------------------------------------------------------------

    def CreateTopic(self, request: Any, context: Any) -> Any:
        if request.name in self.topics:
            abort(context, "ALREADY_EXISTS", "TOPIC_ALREADY_EXISTS", f"topic {request.name} exists already")
        self.add_topic(request.name, request.num_partitions or 1)
        self.configs[request.name] = dict(request.configs)
        return pb.CreateTopicResponse(success=True)

    def DeleteTopic(self, request: Any, context: Any) -> Any:
        self._log(context, request.name, 0)
        del self.topics[request.name]
        return pb.DeleteTopicResponse(success=True)

    def ListTopics(self, request: Any, context: Any) -> Any:
        return pb.ListTopicsResponse(topics=sorted(self.topics))

    def DescribeTopics(self, request: Any, context: Any) -> Any:
        response = pb.DescribeTopicsResponse()
        for name in request.topics or sorted(self.topics):
            self._log(context, name, 0)
            info = response.topics.add(name=name, num_partitions=len(self.topics[name]), replication_factor=1)
            for number, log in enumerate(self.topics[name]):
                info.partitions[number].partition_id = number
                info.partitions[number].end_offset = len(log)
        return response

    def CreatePartitions(self, request: Any, context: Any) -> Any:
        self._log(context, request.topic, 0)
        self.topics[request.topic] += [[] for _ in range(request.num_partitions - len(self.topics[request.topic]))]
        return pb.CreatePartitionsResponse(num_partitions=len(self.topics[request.topic]))

    def AlterTopicConfigs(self, request: Any, context: Any) -> Any:
        configs = self.configs.setdefault(request.topic, {})
        configs.update(request.set)
        for name in request.unset:
            configs.pop(name, None)
        return pb.AlterTopicConfigsResponse()

    def DescribeTopicConfigs(self, request: Any, context: Any) -> Any:
        self._log(context, request.topic, 0)
        response = pb.DescribeTopicConfigsResponse(topic=request.topic)
        for name, value in self.configs.get(request.topic, {}).items():
            response.configs.add(name=name, value=value, source="topic", documentation="what it is")
        return response

    # -- records ------------------------------------------------------------------------------

    def InitProducerId(self, request: Any, context: Any) -> Any:
        return pb.InitProducerIdResponse(producer_id=77, producer_epoch=0)

    def ProduceMessage(self, request: Any, context: Any) -> Any:
        log = self._log(context, request.topic, max(request.partition, 0))
        self.append(request.topic, max(request.partition, 0), request.record)
        return pb.ProduceMessageResponse(topic=request.topic, offset=len(log) - 1, timestamp=log[-1].timestamp)

    def ProduceBatch(self, request: Any, context: Any) -> Any:
        if any(len(record.value) > 1000 for record in request.records):
            abort(context, "RESOURCE_EXHAUSTED", "RECORD_TOO_LARGE", "too large")
        return self._write(request)

    def _write(self, request: Any) -> Any:
        key = (request.producer_id, request.topic, request.partition, request.base_sequence)
        if not request.producer_id or key not in self._sequences:
            self._sequences[key] = len(self.topics[request.topic][request.partition])
            self.append(request.topic, request.partition, *request.records)
        base = self._sequences[key]
        return pb.ProduceBatchResponse(
            topic=request.topic,
            partition=request.partition,
            base_offset=base,
            last_offset=base + len(request.records) - 1,
            correlation_id=request.correlation_id,
        )

    def ProduceBatchStream(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:
        self.streams += 1
        for request in request_iterator:
            self.batches.append(request)
            time.sleep(self.answer_after)
            what = self.batch_script.popleft() if self.batch_script else None
            if what in ("break", "write and break"):
                if what != "break":
                    self._write(request)
                context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            elif what is not None:
                yield pb.ProduceBatchResponse(
                    correlation_id=request.correlation_id, error_code=what[0], error=what[1], base_offset=-1
                )
            else:
                yield self._write(request)

    def GetPartitionOffsets(self, request: Any, context: Any) -> Any:
        log = self._log(context, request.topic, request.partition)
        return pb.GetPartitionOffsetsResponse(end_offset=len(log))

    def ListOffsets(self, request: Any, context: Any) -> Any:
        response = pb.ListOffsetsResponse()
        for query in request.queries:
            log = self._log(context, query.topic, query.partition)
            found, timestamp = -1, -1
            if query.timestamp in (EARLIEST, LATEST):
                found = 0 if query.timestamp == EARLIEST else len(log)
            for record in reversed(log):
                if query.timestamp >= 0 and record.timestamp >= query.timestamp:
                    found, timestamp = record.offset, record.timestamp
            response.results.add(topic=query.topic, partition=query.partition, offset=found, timestamp=timestamp)
        return response

    def ConsumeMessages(self, request: Any, context: Any) -> Iterator[Any]:
        self.consume_requests.append(request)
        log = self._log(context, request.topic, request.partition)
        committed = self.groups.get(request.group_id, {}).get((request.topic, request.partition), -1)
        at = committed if committed >= 0 else request.offset
        if at == EARLIEST:
            at = 0
        elif at == LATEST:
            at = len(log)
        if at > len(log):
            abort(context, "OUT_OF_RANGE", "OFFSET_OUT_OF_RANGE", f"offset {at} is out of range")
        end, sent, responses = len(log), 0, 0
        breaks_after = self.consume_script.popleft() if self.consume_script else None
        context.add_callback(self._wake)
        while context.is_active() and not self._stopping:
            if responses == breaks_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            if (request.until_end and at >= end) or (request.max_records and sent >= request.max_records):
                return
            with self._changed:
                records = log[at : at + self.records_in_response]
                if not records:
                    self._changed.wait(0.2)
                    continue
            at += len(records)
            sent += len(records)
            responses += 1
            yield pb.ConsumeMessagesResponse(high_watermark=len(log), records=records)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # -- groups and the server ----------------------------------------------------------------

    def CommitOffset(self, request: Any, context: Any) -> Any:
        offsets = [(o.topic, o.partition, o.offset) for o in request.offsets]
        self.commits.append(offsets)
        self.groups.setdefault(request.group_id, {}).update({(t, p): o for t, p, o in offsets})
        return pb.CommitOffsetResponse(success=True)

    def FetchCommittedOffsets(self, request: Any, context: Any) -> Any:
        known = self.groups.get(request.group_id, {})
        response = pb.FetchCommittedOffsetsResponse(group_id=request.group_id)
        for topic, partition in [(p.topic, p.partition) for p in request.partitions] or sorted(known):
            response.offsets.add(topic=topic, partition=partition, offset=known.get((topic, partition), -1))
        return response

    def ListConsumerGroups(self, request: Any, context: Any) -> Any:
        response = pb.ListConsumerGroupsResponse()
        for name in sorted(self.groups):
            response.groups.add(group_id=name, state="Empty", member_count=self.members.get(name, 0))
        return response

    def DescribeConsumerGroup(self, request: Any, context: Any) -> Any:
        if request.group_id not in self.groups:
            abort(context, "NOT_FOUND", "GROUP_NOT_FOUND", f"group {request.group_id} not found")
        response = pb.DescribeConsumerGroupResponse(group_id=request.group_id, state="Empty")
        for number in range(self.members.get(request.group_id, 0)):
            member = response.members.add(member_id=f"m{number}", client_id="c", client_host="127.0.0.1")
            member.assignments.add(topic="t", partition=0, offset=3)
        for (topic, partition), offset in sorted(self.groups[request.group_id].items()):
            end = len(self.topics[topic][partition])
            response.offsets.add(
                topic=topic, partition=partition, committed_offset=offset, log_end_offset=end, lag=end - offset
            )
        return response

    def DeleteConsumerGroup(self, request: Any, context: Any) -> Any:
        if self.members.get(request.group_id):
            abort(context, "FAILED_PRECONDITION", "GROUP_NOT_EMPTY", "the group has members")
        if self.groups.pop(request.group_id, None) is None:
            abort(context, "NOT_FOUND", "GROUP_NOT_FOUND", f"group {request.group_id} not found")
        return pb.DeleteConsumerGroupResponse(success=True)

    def HealthCheck(self, request: Any, context: Any) -> Any:
        return pb.HealthCheckResponse(status=self.status, version="1.2.3", uptime_seconds=3661)

    def GetServerInfo(self, request: Any, context: Any) -> Any:
        return pb.GetServerInfoResponse(version="1.2.3", engine="memory", limits=self.limits)
