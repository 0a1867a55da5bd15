"""The configuration: frozen structs whose fields carry their own documentation.

Everything that is shown to people about a setting (the reference file, the errors,
``takhin config show``) comes from here, and only from here. A layer is handed its own
section. ``config_file`` reads a file into these structs; ``problems`` says what the types
cannot. Settings that may cost data or safety begin with ``unsafe_``; there is none yet.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from . import address
from .topic_config import (
    INT32_MAX,
    INT64_MAX,
    TopicConfigs,
    TopicDefaults,
    describe_topic_configs,
    topic_configs,
)

__all__ = [
    "Config",
    "GrpcConfig",
    "HttpConfig",
    "LimitsConfig",
    "LogConfig",
    "LoggingConfig",
    "MemoryConfig",
    "TopicConfigs",
    "TopicDefaults",
    "describe_topic_configs",
    "problems",
    "topic_configs",
    "warnings",
]

#: gRPC takes times as milliseconds in a signed 32-bit integer.
_SECONDS_MAX = 2_000_000


class GrpcConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The gRPC server. Times are in seconds; 0 turns a time limit off where it says so."""

    addr: Annotated[
        str,
        Meta(description='Where to listen: host:port. ":9092" means all interfaces; port 0 means any free port.'),
    ] = "127.0.0.1:9092"
    max_message_size: Annotated[
        int, Meta(ge=1024, le=INT32_MAX, description="Largest message in either direction, in bytes.")
    ] = 10_485_760
    keepalive_interval: Annotated[
        int,
        Meta(ge=0, le=_SECONDS_MAX, description="Ping a client that was silent for so many seconds. 0 = never."),
    ] = 300
    keepalive_timeout: Annotated[
        int,
        Meta(ge=1, le=_SECONDS_MAX, description="Close the connection when such a ping is not answered in seconds."),
    ] = 60
    min_ping_interval: Annotated[
        int,
        Meta(
            ge=0,
            le=_SECONDS_MAX,
            description="Clients may ping once in so many seconds; one that pings more often is disconnected.",
        ),
    ] = 60
    max_connection_idle: Annotated[
        int,
        Meta(ge=0, le=_SECONDS_MAX, description="Close a connection without calls after so many seconds. 0 = never."),
    ] = 900
    max_connection_age: Annotated[
        int,
        Meta(
            ge=0,
            le=_SECONDS_MAX,
            description="Ask a client to connect anew after so many seconds, for load balancing. 0 = never.",
        ),
    ] = 1800
    max_connection_age_grace: Annotated[
        int,
        Meta(
            ge=0,
            le=_SECONDS_MAX,
            description="Seconds after max_connection_age in which running calls, long streams too, may end; "
            "then they are cut. 0 = they are never cut.",
        ),
    ] = 300
    max_concurrent_streams: Annotated[int, Meta(ge=1, le=INT32_MAX, description="Calls at once on one connection.")] = (
        10_000
    )
    max_connections: Annotated[int, Meta(ge=1, le=INT32_MAX, description="Connections at once.")] = 10_000
    max_concurrent_rpcs: Annotated[
        int,
        Meta(
            ge=1,
            le=INT32_MAX,
            description="Calls at once on the whole server, parked consumers not counted. More are answered "
            "RESOURCE_EXHAUSTED.",
        ),
    ] = 2000
    max_streams: Annotated[
        int, Meta(ge=1, le=INT32_MAX, description="Consumers at once; they take no thread while they wait.")
    ] = 20_000
    max_metadata_size: Annotated[
        int, Meta(ge=1024, le=16_777_216, description="Largest metadata (headers) of a call, in bytes.")
    ] = 16_384
    handshake_timeout: Annotated[
        int,
        Meta(ge=1, le=_SECONDS_MAX, description="Seconds that a new connection has to finish its handshake."),
    ] = 20
    max_pending_requests: Annotated[
        int,
        Meta(ge=1, le=INT32_MAX, description="New calls that may wait to be taken up; more are cancelled."),
    ] = 10_000
    direct_calls: Annotated[
        bool,
        Meta(
            description="Move messages by parts of the gRPC library that are not public, which is much faster; off "
            "by itself where the library does not have them. false = only by what is public."
        ),
    ] = True
    data_threads: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Threads for produce and for the beginning of consume; also, produce streams at once.",
        ),
    ] = 256
    admin_threads: Annotated[int, Meta(ge=1, le=1000, description="Threads for all other methods.")] = 16
    sender_threads: Annotated[
        int,
        Meta(
            ge=1, le=1000, description="Threads that answer when the disk has flushed, and read what is not in memory."
        ),
    ] = 8
    stream_buffer_bytes: Annotated[
        int,
        Meta(
            ge=4096,
            le=INT32_MAX,
            description="Bytes that may wait in memory for one stream. Then reading stops, and the sender feels it.",
        ),
    ] = 4_194_304
    reflection: Annotated[
        bool, Meta(description="Serve gRPC reflection, so that grpcurl and others can list and describe the methods.")
    ] = True
    shutdown_grace: Annotated[
        int, Meta(ge=0, le=3600, description="Seconds that running calls have to end when the server stops.")
    ] = 5


class HttpConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metrics for Prometheus, probes and a page for people, over plain HTTP."""

    addr: Annotated[
        str, Meta(description='Where to listen: host:port, ":9464" means all interfaces, "" turns it off.')
    ] = "127.0.0.1:9464"
    debug: Annotated[
        bool,
        Meta(description="Serve /debug/threads, /debug/gc and /debug/config, for looking into a running server."),
    ] = False


class LogConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The log on disk."""

    flush: Annotated[
        Literal["commit", "interval"],
        Meta(
            description="`commit`: consumers see a record when it is on stable storage, so a power cut never takes "
            "back what was read. `interval`: consumers see it at once and the log is flushed every "
            "flush_interval_ms: faster, and a power cut may take back what was read."
        ),
    ] = "commit"
    flush_interval_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=3_600_000,
            description="With flush interval: milliseconds between flushes of records that nobody waits for. Up to 5 s "
            "more when such flushes would take more than a fifth of the time.",
        ),
    ] = 1000
    flush_linger_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=60_000,
            description="With flush commit: milliseconds that records may wait for their flush when nobody waits for "
            "them: produced with acks 0 or 1, and no consumer at the end of the partition. Up to 5 s more when such "
            "flushes would take more than a fifth of the time.",
        ),
    ] = 10
    flush_threads: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="Threads that flush. Of two or more, one flushes all that somebody waits for, side by side.",
        ),
    ] = 4
    segment_bytes: Annotated[
        int,
        Meta(ge=1024, le=INT32_MAX, description="Size at which a segment is full and a new one begins, in bytes."),
    ] = 1_073_741_824
    segment_ms: Annotated[
        int,
        Meta(ge=1, le=INT64_MAX, description="Age at which a new segment begins although the old is not full, in ms."),
    ] = 604_800_000
    index_interval_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=INT32_MAX,
            description="Bytes of log between two index entries. Less = faster seeks, larger indexes.",
        ),
    ] = 4096
    min_free_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=INT64_MAX,
            description="Produce is refused (RESOURCE_EXHAUSTED) while less than this is free on the disk, or less "
            "than a twentieth of the disk where that is smaller. Reads, commits and deletions go on.",
        ),
    ] = 67_108_864
    reserve_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=INT32_MAX,
            description="Size of a file that is given up when the disk is full all the same, so that commits, "
            "deletions and recovery can go on. 0 = none.",
        ),
    ] = 8_388_608
    scrub_bytes_per_second: Annotated[
        int,
        Meta(
            ge=0,
            le=INT64_MAX,
            description="How fast sealed segments are read again in the background to find damage early. 0 = never.",
        ),
    ] = 8_388_608
    scrub_interval_ms: Annotated[
        int, Meta(ge=1000, le=INT64_MAX // 1_000_000, description="Milliseconds from one pass of that to the next.")
    ] = 86_400_000
    recovery_threads: Annotated[int, Meta(ge=1, le=256, description="Partitions that are recovered side by side.")] = 4
    recovery_point_interval_ms: Annotated[
        int,
        Meta(
            ge=100,
            le=3_600_000,
            description="Milliseconds between notes of how far each partition is flushed. Less = faster start "
            "after a crash.",
        ),
    ] = 5000
    retention_check_interval_ms: Annotated[
        int, Meta(ge=100, le=INT32_MAX, description="Milliseconds between two looks for what retention can remove.")
    ] = 300_000
    max_open_segments: Annotated[
        int,
        Meta(
            ge=0,
            le=INT32_MAX,
            description="Segments that may be open at once; the rest are opened when used. 0 = from the limit on "
            "file descriptors.",
        ),
    ] = 0
    delete_delay_ms: Annotated[
        int,
        Meta(
            ge=0, le=INT32_MAX, description="Milliseconds between taking a segment out of use and removing its files."
        ),
    ] = 60_000


class LimitsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds on what callers may create."""

    max_partitions: Annotated[int, Meta(ge=1, le=1_000_000, description="Partitions of all topics together.")] = 20_000
    max_groups: Annotated[int, Meta(ge=1, le=1_000_000, description="Consumer groups.")] = 10_000


class MemoryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds on memory."""

    max_inflight_bytes: Annotated[
        int,
        Meta(
            ge=1_048_576,
            le=INT64_MAX,
            description="Bytes of requests and answers in the works at once. Beyond it, calls are answered "
            "RESOURCE_EXHAUSTED and may be tried again.",
        ),
    ] = 268_435_456


class LoggingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The server's own log, on stderr. Record contents are never in it."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least important lines that are written.")
    ] = "info"
    format: Annotated[
        Literal["text", "json"], Meta(description="`text` for people, `json` (one object a line) for machines.")
    ] = "text"


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Takhin server."""

    data_dir: Annotated[
        str,
        Meta(
            min_length=1,
            description="Directory of all data; one server at a time may use it. A relative path is relative to the "
            "working directory of the server.",
        ),
    ] = "./data"
    default_acks: Annotated[
        Literal[-1, 0, 1],
        Meta(
            description="When a produce call that does not say is answered: -1 = the record is on stable storage, "
            "1 = it is written to the operating system, 0 = it is accepted."
        ),
    ] = -1
    grpc: GrpcConfig = GrpcConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()
    topics: TopicDefaults = TopicDefaults()
    limits: LimitsConfig = LimitsConfig()
    memory: MemoryConfig = MemoryConfig()
    logging: LoggingConfig = LoggingConfig()


def problems(config: Config) -> list[tuple[str, str]]:
    """(path of the setting, what is wrong) for all that types and ranges cannot say; empty when all is well."""
    found: list[tuple[str, str]] = []
    parsed: dict[str, address.Address] = {}
    for path, text in (("grpc.addr", config.grpc.addr), ("http.addr", config.http.addr)):
        if path == "http.addr" and not text:
            continue
        try:
            parsed[path] = address.parse(text)
        except ValueError as exc:
            found.append((path, f"{text!r} is not an address: {exc}"))
    if len(parsed) == 2:
        grpc, http = parsed["grpc.addr"], parsed["http.addr"]
        if grpc.port == http.port != 0 and (grpc.host == http.host or grpc.is_wildcard or http.is_wildcard):
            found.append(("http.addr", f"{config.http.addr!r} is taken by grpc.addr ({config.grpc.addr!r})"))
    if config.memory.max_inflight_bytes < config.grpc.max_message_size:
        found.append(
            (
                "memory.max_inflight_bytes",
                f"{config.memory.max_inflight_bytes} is less than grpc.max_message_size "
                f"({config.grpc.max_message_size}): the largest message could never be taken",
            )
        )
    if "\0" in config.data_dir:
        found.append(("data_dir", "a path cannot hold a NUL byte"))
    return found


def warnings(config: Config) -> list[str]:
    """Sentences on what is allowed but should be known; logged at every start. ``problems`` must be empty."""
    found: list[str] = []
    grpc = config.grpc
    if not address.parse(grpc.addr).is_loopback:
        found.append(
            f"grpc.addr {grpc.addr} can be reached from other machines, and the connection is plaintext without "
            "authentication: everybody who reaches it can read and write everything"
        )
    if config.log.flush == "interval":
        found.append(
            "log.flush is interval: consumers see records before they are on stable storage, and a power cut may "
            f"take back up to {config.log.flush_interval_ms} ms of them"
        )
    if config.default_acks == 0:
        found.append("default_acks is 0: a producer that does not say otherwise is promised nothing")
    if 0 < grpc.keepalive_interval < grpc.keepalive_timeout:
        found.append(
            f"grpc.keepalive_timeout ({grpc.keepalive_timeout} s) is longer than grpc.keepalive_interval "
            f"({grpc.keepalive_interval} s): a vanished client is noticed only after both"
        )
    return found
