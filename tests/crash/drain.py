"""What is there when nobody writes any more: all records, all answers by time, all settings."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc

from takhin.v1 import takhin_pb2 as pb

from .admin import CHURN, SEGMENT_BYTES, config_key
from .consumers import listed
from .history import History
from .victim import status_of
from .worker import Run, Topic

#: Questions by time for each partition.
QUESTIONS = 60


def drain(run: Run, stub: Any, name: str) -> int:
    """Note all partitions' records and answers by time; gives the number of records."""
    count = 0
    for topic in (run.keep, run.trim):
        for partition in range(topic.partitions):
            records = _drain(run.history, stub, topic.name, partition, name)
            count += len(records)
            _ask_times(run.history, stub, topic.name, partition, name, records)
    return count


def _drain(history: History, stub: Any, topic: str, partition: int, name: str) -> list[list[Any]]:
    at = stub.GetPartitionOffsets(pb.GetPartitionOffsetsRequest(topic=topic, partition=partition), timeout=30)
    records: list[list[Any]] = []
    losses: list[list[int]] = []
    position = at.beginning_offset
    while position < at.end_offset:
        request = pb.ConsumeMessagesRequest(topic=topic, partition=partition, offset=position, until_end=True)
        try:
            for answer in stub.ConsumeMessages(request, timeout=60):
                records += listed(answer.records)
                position = max(position, records[-1][0] + 1 if records else 0)
            break
        except grpc.RpcError as error:
            status, _, fields = status_of(error)
            if status != "DATA_LOSS":
                raise
            losses.append([int(fields["first_offset"]), int(fields["last_offset"])])
            position = max(losses[-1][1], position) + 1
    history.note(
        "drain",
        name=name,
        topic=topic,
        partition=partition,
        records=records,
        losses=losses,
        hw=at.end_offset,
        start=at.beginning_offset,
    )
    return records


def _ask_times(history: History, stub: Any, topic: str, partition: int, name: str, records: list[list[Any]]) -> None:
    """About timestamps that are there, and those beside them."""
    # Every drain asks the same of the same records.
    random_ = random.Random(f"{topic}/{partition}")
    known = [record[2] for record in records]
    times = {
        0,
        max(known, default=0) + 1,
        *(random_.choice(known) + random_.choice((-1, 0, 1)) for _ in known[:QUESTIONS]),
    }
    queries = [pb.ListOffsetsRequest.Query(topic=topic, partition=partition, timestamp=at) for at in sorted(times)]
    results = stub.ListOffsets(pb.ListOffsetsRequest(queries=queries), timeout=60).results
    answers = [[query.timestamp, each.offset, each.timestamp] for query, each in zip(queries, results, strict=True)]
    history.note("times", name=name, topic=topic, partition=partition, answers=answers)


def get_settings(run: Run, stub: Any, groups: Iterable[tuple[str, tuple[int, ...]]]) -> int:
    """Note all commits, configs, and whether the topic that comes and goes is there; gives the number of commits."""
    history, count = run.history, 0
    for group, partitions in groups:
        asked = [pb.TopicPartition(topic=run.keep.name, partition=n) for n in partitions]
        ops = [history.invoke("drain", "get", key=f"commit/{group}/{run.keep.name}/{n}") for n in partitions]
        request = pb.FetchCommittedOffsetsRequest(group_id=group, partitions=asked)
        answer = stub.FetchCommittedOffsets(request, timeout=30)
        for op, each in zip(ops, answer.offsets, strict=True):
            history.ok(op, value=each.offset if each.offset >= 0 else None)
            count += 1
    for topic in (run.keep, run.trim):
        op = history.invoke("drain", "get", key=config_key(topic.name))
        answer = stub.DescribeTopicConfigs(pb.DescribeTopicConfigsRequest(topic=topic.name), timeout=30)
        history.ok(op, value={entry.name: entry.value for entry in answer.configs}[SEGMENT_BYTES])
    op = history.invoke("drain", "get", key=f"topic/{CHURN}")
    names = stub.ListTopics(pb.ListTopicsRequest(), timeout=30).topics
    history.ok(op, value=True if CHURN in names else None)
    return count


def digest(data_dir: Path) -> dict[str, str]:
    """Sums of the segments, and of what was set aside."""
    return {
        str(path.relative_to(data_dir)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(data_dir.rglob("*"))
        if path.is_file()
        and (path.suffix == ".log" or "quarantine" in path.parts)
        and "deleted" not in path.relative_to(data_dir).parts
    }


def remove_derived(data_dir: Path, topics: Iterable[Topic]) -> int:
    """Remove everything that can be had again from the segments; gives the number of files."""
    derived = [data_dir / name for name in ("checkpoint", "clean-shutdown")]
    for topic in topics:
        for partition in range(topic.partitions):
            directory = data_dir / f"{topic.name}-{partition}"
            derived += [path for path in directory.iterdir() if path.suffix in (".index", ".timeindex", ".seal")]
    for path in derived:
        path.unlink(missing_ok=True)
    return len(derived)
