"""The table: what is measured, against which method of the bare server, and the goal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from . import requests
from .bare import BIDI, IN_TURN, SEND, SEND_IN_TURN, UNARY
from .requests import SERVICE

MIB = 1 << 20
TOPIC = "bench"
#: With one partition, beside the other.
ONE = "bench-one"

Against = Literal["bare", "one-partition", "none"]


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    #: Mode of the client.
    mode: str
    method: str
    bare_method: str
    #: Prepared requests.
    messages: list[bytes]
    #: Records in a message of the client; in a byte of the server's, where ``mode`` is ``consume``.
    records: float
    #: Smallest ratio; None when there is no goal for it.
    goal: float | None
    streams: int = 1
    #: Requests under way on each stream; for ``unary``, calls at once.
    window: int = 16
    #: Number of the answer's error field.
    error_field: int = 0
    partitions: int = 1
    #: Requests that fill the topic first; a row that has them writes nothing itself.
    fill: list[bytes] = field(default_factory=list)
    fill_times: int = 0
    #: What the ratio is taken to.
    against: Against = "bare"
    #: As ``messages``, for one partition; as many, for the client's sake.
    one_partition: list[bytes] = field(default_factory=list)
    #: Smallest or largest value of a figure of Takhin's own: (figure, at least or at most, value).
    absolute: tuple[str, Literal[">=", "<="], float] | None = None
    rate: float = 0.0
    consume_request: bytes = b""
    #: Whether runs differ so much that it takes more of them to tell.
    noisy: bool = False
    #: Settings of the server beside the defaults.
    settings: Mapping[str, str] = field(default_factory=dict)


def choose(names: str) -> list[Row]:
    """The rows that are called so, or whose names begin so, with commas between; all when there are none. Ends the
    program when no row is meant."""
    wanted = tuple(name for name in names.split(",") if name)
    chosen = [row for row in rows() if not wanted or row.name.startswith(wanted)]
    if not chosen:
        sys.exit(f"no such row; there are {', '.join(row.name for row in rows())}")
    return chosen


def _batches(
    name: str, title: str, records: int, size: int, acks: int, goal: float | None, streams: int = 1, window: int = 16
) -> Row:
    messages = [requests.batch(TOPIC, 0, records, size, acks) for _ in range(4)]
    return Row(name, title, "stream", SERVICE + "ProduceBatchStream", BIDI, messages, records, goal, streams, window, 7)


def _many_partitions(acks: int, goal: float) -> Row:
    """Each request to the next of 1,000 partitions, compared with all of them to one. Batches of 64 KiB."""
    return Row(
        f"partitions-1000-acks{acks}", f"1,000 partitions against 1, 64 x 1 KiB, acks {acks}, 64 under way",
        "stream", SERVICE + "ProduceBatchStream", BIDI,
        [requests.batch(TOPIC, n, 64, 1024, acks) for n in range(1000)], 64, goal,
        streams=4, error_field=7, partitions=1000, against="one-partition",
        one_partition=[requests.batch(ONE, 0, 64, 1024, acks)] * 1000, noisy=True,
    )  # fmt: skip


def _messages(name: str, title: str, acks: int, goal: float | None, streams: int, window: int) -> Row:
    messages = [requests.message(TOPIC, 0, 1024, acks)]
    return Row(name, title, "stream", SERVICE + "ProduceMessageStream", BIDI, messages, 1, goal, streams, window, 5)


def _unary(name: str, title: str, acks: int, window: int, goal: float | None, most_us: float = 0.0) -> Row:
    messages = [requests.message(TOPIC, 0, 1024, acks)]
    absolute = ("mean_us", "<=", most_us) if most_us else None
    return Row(
        name, title, "unary", SERVICE + "ProduceMessage", UNARY, messages, 1, goal, 1, window, 5, absolute=absolute
    )


def _consume(
    name: str, title: str, records: int, size: int, goal: float | None, least: float = 0.0, method: str = SEND
) -> Row:
    """The records have just been written: they are in the page cache."""
    total = requests.STREAM_MESSAGES * MIB
    fill = [requests.batch(TOPIC, 0, records, size, 1)]
    return Row(
        name, title, "consume", SERVICE + "ConsumeMessages", method, [requests.consume(TOPIC, 0, MIB)],
        1 / requests.consumed_record_bytes(size), goal, window=1, error_field=5,
        noisy=True, fill=fill, fill_times=total // (records * requests.consumed_record_bytes(size)),
        absolute=("records_per_second", ">=", least) if least else None,
    )  # fmt: skip


def rows() -> list[Row]:
    return [
        _batches("batch-256x1k-acks1", "ProduceBatchStream, 256 x 1 KiB, acks 1, 16 under way", 256, 1024, 1, 0.75),
        _batches("batch-256x1k-durable", "the same, acks -1", 256, 1024, -1, 0.60),
        _batches("batch-256x1k-acks1-4s", "the same, acks 1, 4 streams", 256, 1024, 1, None, 4, 4),
        _batches("batch-256x1k-durable-4s", "the same, acks -1, 4 streams", 256, 1024, -1, None, 4, 4),
        _batches("batch-2000x100-acks1", "ProduceBatchStream, 2,000 x 100 B, acks 1", 2000, 100, 1, 0.65),
        _consume("consume-1k", "ConsumeMessages, 1 MiB responses, 1 KiB records", 256, 1024, 0.85),
        _consume("consume-100", "ConsumeMessages, 1 MiB responses, 100 B records", 2000, 100, 0.85, 1e6),
        _consume(
            "consume-1k-in-turn", f"the same, 1 KiB, to {IN_TURN} different messages in turn", 256, 1024, None,
            method=SEND_IN_TURN,
        ),
        _consume(
            "consume-100-in-turn", f"the same, 100 B, to {IN_TURN} different messages in turn", 2000, 100, None,
            method=SEND_IN_TURN,
        ),
        _unary("unary-acks1", "ProduceMessage, 1 KiB, acks 1, 64 callers", 1, 64, 0.90),
        _unary("unary-durable", "ProduceMessage, 1 KiB, acks -1, 64 callers", -1, 64, None),
        _unary("unary-durable-1", "ProduceMessage, 1 KiB, acks -1, 1 caller: mean", -1, 1, None, 1000),
        _messages("message-acks1", "ProduceMessageStream, 1 KiB, acks 1, 4 streams", 1, 0.90, 4, 64),
        _messages("message-acks1-1s", "ProduceMessageStream, 1 KiB, acks 1, 1 stream", 1, 0.90, 1, 256),
        _messages("message-durable", "ProduceMessageStream, 1 KiB, acks -1, 4 streams", -1, None, 4, 64),
        _many_partitions(1, 0.85),
        _many_partitions(-1, 0.75),
        Row(
            "tail", "produce to tailing consumer, 1,000 records/s, acks -1", "tail", SERVICE + "ProduceMessageStream",
            "", [requests.marked_message(TOPIC, 0, 1024, -1)], 1, None, window=1, error_field=5, against="none",
            rate=1000, consume_request=requests.follow(TOPIC, 0),
            absolute=("p99_us", "<=", 10_000),
        ),
    ]  # fmt: skip
