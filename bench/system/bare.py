"""The yardsticks: grpcio servers that read the same messages as Takhin does and keep nothing.

Handlers take and give bytes. By default grpcio is as it comes: the bare transport. Tuned, it has the options and the
settings of the process that the real server has found for itself, so that what differs is what that does with a
message.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from takhin._wire import keep_buffers
from takhin.app import SWITCH_INTERVAL
from takhin.config import GrpcConfig
from takhin.server.options import KEPT_BUFFER_BYTES, server_options
from takhin.server.pacing import unpace_loopback

from .requests import STREAM_MESSAGES, read_messages

UNARY, BIDI, SEND = "/bench.Bare/Unary", "/bench.Bare/Bidi", "/bench.Bare/Send"
#: As SEND, but no message is one that the processor still has in its cache from the last time: no log sends such.
SEND_IN_TURN = "/bench.Bare/SendInTurn"
#: More than the caches of most processors hold, at 1 MiB each.
IN_TURN = 64


class Bare(grpc.GenericRpcHandler):
    def __init__(self, answer: bytes, sent: list[bytes]) -> None:
        in_turn = [bytes(bytearray(message)) for message in sent for _ in range(IN_TURN)]
        self._handlers = {
            UNARY: grpc.unary_unary_rpc_method_handler(lambda _request, _context: answer),
            BIDI: grpc.stream_stream_rpc_method_handler(lambda requests, _context: self._echo(requests, answer)),
            SEND: grpc.unary_stream_rpc_method_handler(lambda _request, _context: self._send(sent)),
            SEND_IN_TURN: grpc.unary_stream_rpc_method_handler(lambda _request, _context: self._send(in_turn)),
        }

    @staticmethod
    def _echo(requests: Iterator[bytes], answer: bytes) -> Iterator[bytes]:
        for _ in requests:
            yield answer

    @staticmethod
    def _send(sent: list[bytes]) -> Iterator[bytes]:
        for n in range(STREAM_MESSAGES):
            yield sent[n % len(sent)]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answer", type=Path, required=True, help="file with the answer of the unary and bidi method")
    parser.add_argument("--sent", type=Path, required=True, help="file with the messages of the server stream")
    parser.add_argument("--tuned", action="store_true", help="as the real server is")
    arguments = parser.parse_args()
    config = GrpcConfig()
    if arguments.tuned:
        sys.setswitchinterval(SWITCH_INTERVAL)
        keep_buffers(KEPT_BUFFER_BYTES)
    server = grpc.server(
        ThreadPoolExecutor(config.data_threads),
        handlers=[Bare(read_messages(arguments.answer)[0], read_messages(arguments.sent))],
        options=server_options(config) if arguments.tuned else None,
    )
    port = server.add_insecure_port("127.0.0.1:0")
    if arguments.tuned:
        unpace_loopback(port)
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
