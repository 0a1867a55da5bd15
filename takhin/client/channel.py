"""The gRPC channel and its options."""

from __future__ import annotations

from typing import Final

import grpc

#: A response holds at least one record, so it must fit the largest one a server may be configured to take.
DEFAULT_MAX_RECEIVE_BYTES: Final = 128 * 1024 * 1024

#: Longer than the minute that servers ask for between pings: one that pings faster is disconnected.
_KEEPALIVE_TIME_MS: Final = 90_000
_KEEPALIVE_TIMEOUT_MS: Final = 20_000


def open_channel(
    address: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    max_receive_bytes: int = DEFAULT_MAX_RECEIVE_BYTES,
) -> grpc.Channel:
    """A channel to ``host:port``; plaintext without credentials. It connects at its first call."""
    options: list[tuple[str, object]] = [
        ("grpc.max_receive_message_length", max_receive_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 0),
        # A server that restarts is found again soon; the default waits up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        # In spite of its name, how long one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # The log is not the web: a proxy of the environment is not meant for it.
        ("grpc.enable_http_proxy", 0),
        # One connection a client, whatever other clients of this process do.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if credentials is not None:
        return grpc.secure_channel(address, credentials, options)
    return grpc.insecure_channel(address, options)
