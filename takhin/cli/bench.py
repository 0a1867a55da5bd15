"""``takhin bench``: how fast a server is, measured from here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from .connection import (
    INTERRUPTED,
    CommandFailed,
    connection,
    interruptible,
    server_options,
    sigterm_as_interrupt,
)
from .output import count_text, print_json, size_text

if TYPE_CHECKING:
    import grpc

    from ..client import Client
    from .bench_load import Clock, Load, Shape

_ACKS: Final = {"all": -1, "1": 1, "0": 0}
#: Seconds between two looks at the figures.
_LOOK: Final = 0.1
#: Seconds that answers may take after the last request.
_DRAIN: Final = 30.0

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group("bench")
def command() -> None:
    """Measure a server: writing, reading, and from one end to the other.

    The topic is created when it is not there, and then deleted at the end unless --keep is given. The client
    is one Python process: on a fast server, small batches measure the client. Several at once add up.
    """


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def add(to: _Command) -> _Command:
        for option in reversed(options):
            to = option(to)
        return to

    return add


_TIMES = _options(
    click.option("--duration", type=click.FloatRange(min=0.1), default=10.0, show_default=True, metavar="SECONDS"),
    click.option(
        "--warmup",
        type=click.FloatRange(min=0),
        default=1.0,
        show_default=True,
        metavar="SECONDS",
        help="Before that, not counted.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON on stdout."),
)
_WRITES = _options(
    click.option("--record-size", type=click.IntRange(min=0), default=1024, show_default=True, metavar="BYTES"),
    click.option("--acks", type=click.Choice(list(_ACKS)), default="all", show_default=True),
    click.option(
        "--partitions",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Of the topic that is created. An existing topic is used as it is.",
    ),
    click.option("--streams", type=click.IntRange(min=1, max=128), default=1, show_default=True),
    click.option("--keep", is_flag=True, help="Do not delete the topic that was created."),
)


@command.command("produce")
@click.argument("topic", default="takhin-bench")
@_WRITES
@click.option("--batch", type=click.IntRange(min=1), default=256, show_default=True, help="Records in a request.")
@click.option(
    "--in-flight",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Requests under way on each stream.",
)
@click.option("--rate", type=click.FloatRange(min=0), default=0.0, help="Records a second; without it, no limit.")
@_TIMES
@server_options
@interruptible
def produce_command(
    topic: str,
    record_size: int,
    acks: str,
    partitions: int,
    streams: int,
    keep: bool,
    batch: int,
    in_flight: int,
    rate: float,
    duration: float,
    warmup: float,
    as_json: bool,
    addr: str,
    timeout: float,
) -> None:
    """Write to TOPIC over ProduceBatchStream; a partition after the other has its turn.

    The latency is a request's, from its sending to its answer. With --rate, it is counted from when the request
    was due: a server that stalls is charged for those that it held up.

    \b
    Examples:
      takhin bench produce
      takhin bench produce --record-size 100 --batch 2000 --acks 1 --streams 4
      takhin bench produce --batch 1 --rate 1000 --duration 60 --json
    """
    from . import bench_load

    with _topic(topic, partitions, keep, addr, timeout) as (channel, count):
        shape = bench_load.Shape(topic, count, record_size, batch, _ACKS[acks], streams, in_flight, rate)
        clock = bench_load.Clock(warmup, duration)
        load = bench_load.produce(channel, shape, clock)
        interrupted = _watch(load, clock)
        _finish(load, _DRAIN)
    _report("produce", load, clock, _described(shape), interrupted, as_json)


@command.command("consume")
@click.argument("topic")
@click.option(
    "--max-bytes", type=click.IntRange(min=1), default=1 << 20, show_default=True, help="Of records in a response."
)
@_TIMES
@server_options
@interruptible
def consume_command(
    topic: str, max_bytes: int, duration: float, warmup: float, as_json: bool, addr: str, timeout: float
) -> None:
    """Read all partitions of TOPIC side by side, from the beginning to the end or until the time is up.

    The latency is the time between one response and the next.

    \b
    Examples:
      takhin bench produce t --keep && takhin bench consume t
    """
    from ..client.channel import open_channel
    from . import bench_load

    with sigterm_as_interrupt(), connection(addr, timeout) as client:
        count = len(client.describe_topic(topic).partitions)
        with open_channel(client.address) as channel:
            clock = bench_load.Clock(warmup, duration)
            load = bench_load.consume(channel, topic, count, max_bytes, clock)
            interrupted = _watch(load, clock)
            load.cancel()
            _finish(load, _DRAIN)
    parameters = {"topic": topic, "partitions": count, "max_bytes": max_bytes}
    _report("consume", load, clock, parameters, interrupted, as_json)


@command.command("e2e")
@click.argument("topic", default="takhin-bench")
@_WRITES
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Records in a request.")
@click.option("--rate", type=click.FloatRange(min=0.1), default=1000.0, show_default=True, help="Records a second.")
@_TIMES
@server_options
@interruptible
def e2e_command(
    topic: str,
    record_size: int,
    acks: str,
    partitions: int,
    streams: int,
    keep: bool,
    batch: int,
    rate: float,
    duration: float,
    warmup: float,
    as_json: bool,
    addr: str,
    timeout: float,
) -> None:
    """Write at a rate while consumers follow: the latency is from before the sending to having the record.

    Values begin with a mark and the time, so records have at least 29 bytes.

    \b
    Examples:
      takhin bench e2e
      takhin bench e2e --rate 5000 --acks 1 --partitions 4
    """
    from . import bench_load

    with _topic(topic, partitions, keep, addr, timeout) as (channel, count):
        shape = bench_load.Shape(topic, count, max(record_size, 29), batch, _ACKS[acks], streams, 1024, rate)
        clock = bench_load.Clock(warmup, duration)
        load = bench_load.end_to_end(channel, shape, clock)
        interrupted = _watch(load, clock)
        time.sleep(min(0.2, duration))  # for what is under way
        load.cancel()
        _finish(load, _DRAIN)
    _report("e2e", load, clock, _described(shape), interrupted, as_json)


@contextmanager
def _topic(topic: str, partitions: int, keep: bool, addr: str, timeout: float) -> Iterator[tuple[grpc.Channel, int]]:
    """A channel, and how many partitions the topic has. What was created goes at the end."""
    with sigterm_as_interrupt(), connection(addr, timeout) as client:
        from ..client.channel import open_channel

        count, created = _ensure(client, topic, partitions)
        try:
            with open_channel(client.address) as channel:
                yield channel, count
        finally:
            if created and not keep:
                client.delete_topic(topic)


def _ensure(client: Client, topic: str, partitions: int) -> tuple[int, bool]:
    """(partitions, whether it was created)."""
    from ..client import ClientError

    try:
        client.create_topic(topic, partitions)
    except ClientError as error:
        if error.code != "ALREADY_EXISTS":
            raise
        return len(client.describe_topic(topic).partitions), False
    return partitions, True


def _watch(load: Load, clock: Clock) -> bool:
    """Until the time is up or the load has ended; shows how it goes. True after Ctrl-C."""
    try:
        with _progress() as show:
            while not clock.is_over(time.perf_counter()) and load.is_running:
                time.sleep(_LOOK)
                show(load)
    except KeyboardInterrupt:
        clock.stopped = True
        return True
    return False


def _finish(load: Load, seconds: float) -> None:
    load.clock.stopped = True
    if not load.join(seconds):
        load.cancel()
        load.join(seconds)
        raise CommandFailed(f"answers did not come within {seconds:.0f} s")
    if load.failure is not None:
        raise load.failure


@contextmanager
def _progress() -> Iterator[Callable[[Load], None]]:
    """A line on stderr when somebody watches."""
    import sys

    if not sys.stderr.isatty():
        yield lambda load: None
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), transient=True, refresh_per_second=8) as live:
        before: list[tuple[float, int, int]] = [(time.perf_counter(), 0, 0)]

        def show(load: Load) -> None:
            now = time.perf_counter()
            before.append((now, load.records, load.bytes))
            del before[: max(len(before) - 11, 0)]  # the last second
            then, records, size = before[0]
            seconds = max(now - then, 1e-9)
            left = max(load.clock.ends - now, 0)
            state = "warming up" if now < load.clock.counts_from else f"{left:.0f} s left"
            live.update(
                f"{count_text(load.records, 'record')}  {(load.records - records) / seconds:,.0f}/s  "
                f"{size_text((load.bytes - size) / seconds)}/s  {state}"
            )

        yield show


def _described(shape: Shape) -> dict[str, Any]:
    return {
        "topic": shape.topic,
        "partitions": shape.partitions,
        "record_bytes": shape.record_bytes,
        "batch": shape.batch,
        "acks": shape.acks,
        "streams": shape.streams,
        "in_flight": shape.in_flight,
        "rate": shape.rate,
    }


def _report(kind: str, load: Load, clock: Clock, parameters: dict[str, Any], interrupted: bool, as_json: bool) -> None:
    seconds = max(load.last - clock.counts_from, 1e-9)
    latency = load.latencies()
    rates = (load.records / seconds, load.bytes / seconds) if load.records else (0.0, 0.0)
    if as_json:
        print_json(
            {
                "kind": kind,
                "parameters": parameters,
                "records": load.records,
                "bytes": load.bytes,
                "seconds": round(seconds, 3),
                "records_per_second": round(rates[0], 1),
                "bytes_per_second": round(rates[1], 1),
                "latency_ms": latency.summary_ms(),
            }
        )
    else:
        click.echo(
            f"{count_text(load.records, 'record')}, {size_text(load.bytes)} in {seconds:.2f} s: "
            f"{rates[0]:,.0f} records/s, {size_text(rates[1])}/s"
        )
        figures = ", ".join(f"{name} {value:.3f}" for name, value in latency.summary_ms().items())
        click.echo(f"latency (ms): {figures}")
    if interrupted:
        raise SystemExit(INTERRUPTED)
