"""Every option of the gRPC server, said out loud: what is left to a default changes with a release."""

from __future__ import annotations

import grpc

from ..config import GrpcConfig

#: gRPC's word for "never", ms.
_NEVER_MS = 2**31 - 1
#: Pings that come too early before the connection is closed.
_PING_STRIKES = 2
#: Seconds that a call may wait to be taken up.
_PENDING_SECONDS = 30
#: Bit 0 of the set of compression algorithms: none. A compressed message is refused (UNIMPLEMENTED), for gRPC
#: inflates it whole before it looks at its size.
_NO_COMPRESSION = 1

#: Bytes above the limit up to which a message is taken in, to be refused with details and, in a stream, without
#: ending it. Beyond, gRPC ends the call without either.
OVERSIZE_ANSWERED = 1 << 20

#: Bytes that a client may send on one stream before the server reads them. By default gRPC guesses, which on a quick
#: line comes to megabytes: they are read at one go, in which nobody else is served, and leave the caches cold.
WINDOW_BYTES = 512 * 1024

#: Bytes. The C library maps larger buffers anew each time, and every page of them costs a fault: with its default,
#: which follows the largest buffer so far, encoding a response took up to four times as long.
KEPT_BUFFER_BYTES = 4 << 20

Option = tuple[str, int]


def server_options(config: GrpcConfig) -> list[Option]:
    """Names are those of grpc/impl/channel_arg_names.h of gRPC core; times there are milliseconds."""
    return [
        # A second server on the same port must fail rather than take every other connection.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", config.max_message_size + OVERSIZE_ANSWERED),
        # What was stored can be sent, also when max_message_size was larger then.
        ("grpc.max_send_message_length", -1),
        # Soft and hard limit the same: between the two, calls would be refused at random.
        ("grpc.max_metadata_size", config.max_metadata_size),
        ("grpc.absolute_max_metadata_size", config.max_metadata_size),
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        ("grpc.server_handshake_timeout_ms", config.handshake_timeout * 1000),
        ("grpc.keepalive_time_ms", _ms_or_never(config.keepalive_interval)),
        ("grpc.keepalive_timeout_ms", config.keepalive_timeout * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", config.min_ping_interval * 1000),
        ("grpc.http2.max_ping_strikes", _PING_STRIKES),
        # Our own pings: as many as keepalive wants, also while no data flows.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_connection_idle_ms", _ms_or_never(config.max_connection_idle)),
        ("grpc.max_connection_age_ms", _ms_or_never(config.max_connection_age)),
        ("grpc.max_connection_age_grace_ms", _ms_or_never(config.max_connection_age_grace)),
        ("grpc.server.max_pending_requests", config.max_pending_requests),
        ("grpc.server.max_pending_requests_hard_limit", 2 * config.max_pending_requests),
        ("grpc.server_max_unrequested_time_in_server", _PENDING_SECONDS),
        ("grpc.compression_enabled_algorithms_bitset", _NO_COMPRESSION),
        ("grpc.default_compression_algorithm", int(grpc.Compression.NoCompression)),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.enable_channelz", 0),
    ]


def _ms_or_never(seconds: int) -> int:
    return min(seconds * 1000, _NEVER_MS) if seconds else _NEVER_MS
