"""``python -m bench.system.transports``: ways to run a bidi echo with grpcio, in turn, one message a record.

Which of them would carry ProduceMessageStream fastest? All answer each request; none keeps anything.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from takhin.app import SWITCH_INTERVAL
from takhin.config import GrpcConfig
from takhin.observe.metrics import GrpcMetrics
from takhin.server.call import Call
from takhin.server.calls import Behaviour
from takhin.server.options import server_options
from takhin.server.pools import CallPool
from takhin.server.router import Router

from .bare import BIDI
from .processes import REPOSITORY, Server, build_client, run_client
from .requests import ANSWER, message, write_messages


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, handler: grpc.RpcMethodHandler) -> None:
        self._handler = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return self._handler


def _options() -> list[tuple[str, int]]:
    return server_options(GrpcConfig())


def _serve_threads(handler: grpc.RpcMethodHandler, options: list[tuple[str, int]] | None = None, port: int = 0) -> int:
    sys.setswitchinterval(SWITCH_INTERVAL)
    server = grpc.server(ThreadPoolExecutor(64), handlers=[_Handlers(handler)], options=options or _options())
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    _KEEP.append(server)
    return bound


_KEEP: list[Any] = []


def threads() -> None:
    """The usual: one pool thread a stream, which reads, answers, reads."""

    def echo(requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        for _ in requests:
            yield ANSWER

    _announce(_serve_threads(grpc.stream_stream_rpc_method_handler(echo)))


def reading_ahead() -> None:
    """A thread of its own reads all the time; the pool's thread answers what has gathered."""

    def echo(requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        arrived: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

        def read() -> None:
            try:
                for request in requests:
                    arrived.put(request)
            except grpc.RpcError:
                pass
            arrived.put(None)

        threading.Thread(target=read, daemon=True).start()
        while arrived.get() is not None:
            yield ANSWER

    _announce(_serve_threads(grpc.stream_stream_rpc_method_handler(echo)))


def asynchronous(new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
    """grpc.aio: one thread, no hand-offs within Python."""

    async def echo(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield ANSWER

    async def main() -> None:
        handler = grpc.stream_stream_rpc_method_handler(echo)  # type: ignore[arg-type]
        server = grpc.aio.server(handlers=[_Handlers(handler)], options=_options())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(port, flush=True)
        await server.wait_for_termination()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def asynchronous_read_write() -> None:
    """grpc.aio by ``context.read`` and ``context.write``."""

    async def echo(_requests: AsyncIterator[bytes], context: Any) -> None:
        while await context.read() is not grpc.aio.EOF:
            await context.write(ANSWER)

    async def main() -> None:
        handler = grpc.stream_stream_rpc_method_handler(echo)  # type: ignore[arg-type]
        server = grpc.aio.server(handlers=[_Handlers(handler)], options=_options())
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(port, flush=True)
        await server.wait_for_termination()

    asyncio.run(main())


def asynchronous_uvloop() -> None:
    """grpc.aio on uvloop."""
    import uvloop

    asynchronous(uvloop.new_event_loop)


def two_processes() -> None:
    """Two of ``threads`` on one port (SO_REUSEPORT): what several processes could give, before they pass on
    what they gathered."""

    def echo(requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        for _ in requests:
            yield ANSWER

    options = [option for option in _options() if option[0] != "grpc.so_reuseport"] + [("grpc.so_reuseport", 1)]
    # gRPC does not live through a fork: the child begins anew, with the port that its parent has.
    port = int(os.environ.get("BENCH_PORT", "0"))
    bound = _serve_threads(grpc.stream_stream_rpc_method_handler(echo), options, port)
    if not port:
        child = subprocess.Popen(
            [sys.executable, "-m", "bench.system.transports", "--serve", "two_processes"],
            env={**os.environ, "BENCH_PORT": str(bound)},
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        child.stdout.readline()
        _KEEP.append(child)
        try:
            _announce(bound)
        finally:
            child.terminate()
    else:
        _announce(bound)


def inbox_and_outbox() -> None:
    """What the server does: completions of our own fill an inbox and empty an outbox, a thread answers what has
    gathered."""

    def echo(call: Call) -> None:
        while taken := call.take():
            call.send_all([ANSWER] * len(taken))
        call.send(None)

    _serve_router(lambda call: call.spawn(lambda: echo(call)))


def on_the_serving_thread() -> None:
    """Completions of our own that answer at once: no other thread. A server that waits for a disk there would
    keep all its clients waiting."""

    def begin(call: Call) -> None:
        def deliver(data: bytes | None) -> None:
            if data is None:
                call.spawn(lambda: call.send(None))
            else:
                call.send(ANSWER)
                call.receive(deliver)

        call.receive(deliver)

    _serve_router(begin)


def _serve_router(behaviour: Behaviour) -> None:
    sys.setswitchinterval(SWITCH_INTERVAL)
    pool = CallPool("bench", 64, 1000)
    router = Router(GrpcMetrics(CollectorRegistry()), CallPool("reject", 1, 1), direct=True)
    router.add("bench.Bare", "Bidi", "bidi_stream", behaviour, pool)
    server = grpc.server(ThreadPoolExecutor(1), options=_options())
    router.attach(server)
    bound = server.add_insecure_port("127.0.0.1:0")
    server.start()
    _KEEP.append(server)
    _announce(bound)


WAYS = {
    way.__name__: way
    for way in (
        threads,
        reading_ahead,
        asynchronous,
        asynchronous_read_write,
        asynchronous_uvloop,
        two_processes,
        inbox_and_outbox,
        on_the_serving_thread,
    )
}


def _announce(port: int) -> None:
    import signal

    print(port, flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=WAYS)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    if arguments.serve:
        WAYS[arguments.serve]()
        return
    build_client()
    with tempfile.TemporaryDirectory() as directory:
        path = write_messages(Path(directory) / "messages", [message("bench", 0, 1024, 1)])
        flags = ["-mode", "stream", "-method", BIDI, "-messages", str(path), "-streams", str(arguments.streams)]
        # A connection for each stream: several processes share them out.
        flags += ["-connections", str(arguments.streams), "-window", "64", "-seconds", str(arguments.seconds)]
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
        servers: dict[str, Server] = {}
        try:
            for name in WAYS:
                process = subprocess.Popen(
                    [sys.executable, "-m", "bench.system.transports", "--serve", name],
                    cwd=REPOSITORY,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                assert process.stdout is not None
                first = process.stdout.readline()
                if first:
                    servers[name] = Server(process, int(first))
            for _ in range(arguments.pairs):
                for name, server in servers.items():
                    run = run_client(server, flags)
                    rate = run["messages"] / run["seconds"]
                    results[name].append((rate, 1e6 * run["server_cpu_seconds"] / run["run_seconds"] / rate))
        finally:
            for server in servers.values():
                server.stop()
    for name, runs in results.items():
        if not runs:
            print(f"{name}: did not start")
            continue
        ratios = [run[0] / base[0] for run, base in zip(runs, results["threads"], strict=True)]
        print(
            f"{name}: {statistics.median(run[0] for run in runs):,.0f} messages/s, "
            f"{statistics.median(run[1] for run in runs):.0f} us CPU a message (of the first process), "
            f"{statistics.median(ratios):.2f} of threads ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
