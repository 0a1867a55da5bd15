"""``takhin produce``: writes records from a file or a pipe to a topic."""

from __future__ import annotations

import io
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

import click

from . import exit_codes
from .connection import (
    INTERRUPTED,
    CommandFailed,
    connection,
    interruptible,
    one_line,
    server_options,
    sigterm_as_interrupt,
)
from .output import count_text, print_json, size_text
from .record_input import FORMATS, InputError, InputRecord, read_records

if TYPE_CHECKING:
    from ..client import ClientError, Producer

_ACKS: Final = {"all": -1, "1": 1, "0": 0}
#: The bar is drawn so often, seconds.
_DRAW_EVERY: Final = 0.1


class _Progress(Protocol):
    def update(self, records: int, read_bytes: int) -> None: ...


@dataclass
class _Outcome:
    """What became of a run."""

    sent: int = 0
    acknowledged: int = 0
    size_bytes: int = 0
    seconds: float = 0.0
    error: ClientError | None = None
    input_error: str = ""
    interrupted: bool = False


def separator(text: str | None) -> bytes | None:
    r"""A separator as typed: ``\t``, ``\n``, ``\0`` and ``\\`` mean what they mean in C."""
    if text is None:
        return None
    result, rest = "", text
    escapes = {"t": "\t", "n": "\n", "0": "\0", "\\": "\\"}
    while rest:
        if rest[0] == "\\" and rest[1:2] in escapes and len(rest) > 1:
            result, rest = result + escapes[rest[1]], rest[2:]
        else:
            result, rest = result + rest[0], rest[1:]
    if not result:
        raise click.BadParameter("empty", param_hint="--key-separator")
    return os.fsencode(result)


@click.command("produce")
@click.argument("topic")
@click.option("--file", "-f", "path", default="-", show_default=True, metavar="FILE", help="Where from; - is stdin.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="lines", show_default=True, help="See above.")
@click.option("--key-separator", metavar="TEXT", help="Lines are KEY<TEXT>VALUE, as in --key-separator '\\t'.")
@click.option("--partition", "-p", type=click.IntRange(min=0), help="Without it: by the key, or spread.")
@click.option("--header", "headers", metavar="NAME=VALUE", multiple=True, help="A header for every record.")
@click.option(
    "--acks", type=click.Choice(list(_ACKS)), help="all: on stable storage, 1: written, 0: accepted. [server's default]"
)
@click.option("--batch-records", type=click.IntRange(min=1), default=10_000, show_default=True, help="In one batch.")
@click.option("--batch-bytes", type=click.IntRange(min=1), default=1024 * 1024, show_default=True, help="In one batch.")
@click.option(
    "--linger-ms", type=click.FloatRange(min=0), default=5.0, show_default=True, help="How long a batch is filled."
)
@click.option("--idempotent", is_flag=True, help="Ride out lost connections and write each record once.")
@click.option(
    "--delivery-timeout",
    type=click.FloatRange(min=0.1),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a batch may go without an answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON on stdout.")
@server_options
@interruptible
def command(
    topic: str,
    path: str,
    form: str,
    key_separator: str | None,
    partition: int | None,
    headers: tuple[str, ...],
    acks: str | None,
    batch_records: int,
    batch_bytes: int,
    linger_ms: float,
    idempotent: bool,
    delivery_timeout: float,
    as_json: bool,
    addr: str,
    timeout: float,
) -> None:
    """Write records to TOPIC, from a file or a pipe; typed at a terminal, each line is sent at once.

    \b
    Formats:
      lines            one record a line, bytes kept as they are, without the newline
      jsonl            {"key": "k", "value": "v", "headers": {"h": "x"}, "timestamp": 1700000000000};
                       only value is needed; null is a tombstone; key_base64 and value_base64 for other bytes
      length-prefixed  4 bytes of length, big endian, then the value; 0xFFFFFFFF alone is a null value

    Exit code 0 only when every record was acknowledged. After Ctrl-C or SIGTERM what was read is
    sent, and the exit code is 130.

    \b
    Examples:
      takhin produce logs --file /var/log/syslog
      tail -f app.log | takhin produce logs --acks 1
      takhin produce orders --file orders.tsv --key-separator '\\t'
      takhin produce orders --format jsonl --idempotent < orders.jsonl
      takhin consume orders --format json | takhin produce copy --format jsonl
    """
    if key_separator is not None and form != "lines":
        raise click.UsageError("--key-separator is for --format lines")
    common = _headers(headers)
    separating = separator(key_separator)
    with ExitStack() as stack:
        stack.enter_context(sigterm_as_interrupt())
        source = stack.enter_context(_open(path))
        client = stack.enter_context(connection(addr, timeout))
        from ..client import ProducerOptions

        options = ProducerOptions(
            acks=None if acks is None else _ACKS[acks],
            batch_records=batch_records,
            batch_bytes=batch_bytes,
            linger=linger_ms / 1000,
            idempotent=idempotent,
            delivery_timeout=delivery_timeout,
        )
        producer = client.producer(topic, options=options)
        interactive = source.isatty()
        if interactive and sys.stderr.isatty():
            click.echo(f"Each line is a record for {topic}; Ctrl-D ends.", err=True)
        with _progress(source, path, interactive) as progress:
            outcome = _send(
                producer,
                read_records(source, form, separating),
                common,
                -1 if partition is None else partition,
                progress,
                interactive,
            )
    _report(outcome, as_json)


def _headers(pairs: tuple[str, ...]) -> tuple[tuple[str, bytes], ...]:
    found = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--header")
        found.append((name, os.fsencode(value)))
    return tuple(found)


@contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below, and errors of the body are not ours
    except OSError as error:
        code = exit_codes.NOT_FOUND if isinstance(error, FileNotFoundError) else exit_codes.FAILURE
        raise CommandFailed(f"{path}: {error.strerror}", code) from None
    with file:
        yield file


def _send(
    producer: Producer,
    records: Iterator[InputRecord],
    common_headers: tuple[tuple[str, bytes], ...],
    partition: int,
    progress: _Progress,
    at_once: bool,
) -> _Outcome:
    """Send everything, wait for the answers, close the producer."""
    from ..client import ClientError

    outcome = _Outcome()
    started = time.monotonic()
    draw_at = 0.0
    read_bytes = 0
    try:
        try:
            for record in records:
                headers = common_headers + record.headers if record.headers else common_headers
                outcome.sent += 1
                producer.send(
                    record.value, record.key, headers=headers, timestamp=record.timestamp, partition=partition
                )
                read_bytes += len(record.value or b"") + len(record.key or b"") + 1
                if at_once:
                    producer.flush()
                elif time.monotonic() >= draw_at:
                    draw_at = time.monotonic() + _DRAW_EVERY
                    progress.update(producer.acknowledged_records, read_bytes)
        except InputError as error:
            outcome.input_error = str(error)
        except KeyboardInterrupt:
            outcome.interrupted = True
        except OSError as error:
            outcome.input_error = f"cannot read: {error.strerror or error}"
        producer.flush()
        progress.update(producer.acknowledged_records, read_bytes)
    except ClientError as error:
        outcome.error = error
    finally:
        producer.abort()  # nothing is left to send, unless a second Ctrl-C came
        outcome.seconds = time.monotonic() - started
        outcome.acknowledged = producer.acknowledged_records
        outcome.size_bytes = producer.acknowledged_bytes
    return outcome


def _report(outcome: _Outcome, as_json: bool) -> None:
    """Say what happened; raises what makes the exit code."""
    rate = outcome.acknowledged / outcome.seconds if outcome.seconds > 0 else 0.0
    byte_rate = outcome.size_bytes / outcome.seconds if outcome.seconds > 0 else 0.0
    lost = outcome.sent - outcome.acknowledged
    if as_json:
        print_json(
            {
                "records": outcome.acknowledged,
                "bytes": outcome.size_bytes,
                "seconds": round(outcome.seconds, 3),
                "records_per_second": round(rate, 1),
                "bytes_per_second": round(byte_rate, 1),
                "not_acknowledged": lost,
            }
        )
    click.echo(
        f"{count_text(outcome.acknowledged, 'record')}, {size_text(outcome.size_bytes)} in {outcome.seconds:.2f} s"
        f" ({rate:.0f} records/s, {size_text(byte_rate)}/s)",
        err=True,
    )
    if lost or outcome.error is not None:
        cause, code = "", exit_codes.FAILURE
        if outcome.error is not None:
            cause = f": {one_line(outcome.error.message)} ({outcome.error.label})"
            code = exit_codes.for_status(outcome.error.code)
        raise CommandFailed(f"{lost} of {count_text(outcome.sent, 'record')} not acknowledged{cause}", code)
    if outcome.input_error:
        raise CommandFailed(f"{outcome.input_error}; sent before it: {count_text(outcome.sent, 'record')}")
    if outcome.interrupted:
        raise SystemExit(INTERRUPTED)


class _NoProgress:
    def update(self, records: int, read_bytes: int) -> None:
        pass


class _Bar:
    def __init__(self, bar: Any, task: Any) -> None:
        self._bar = bar
        self._task = task

    def update(self, records: int, read_bytes: int) -> None:
        self._bar.update(self._task, completed=read_bytes, description=f"{records} records")


@contextmanager
def _progress(source: BinaryIO, path: str, interactive: bool) -> Iterator[_Progress]:
    """A bar on stderr when somebody watches."""
    if interactive or not sys.stderr.isatty():
        yield _NoProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    total = _size(source)
    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    if total is not None:
        columns.append(TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar, bar.add_task("0 records", total=total))


def _size(source: BinaryIO) -> int | None:
    """Bytes to read, when it is a plain file."""
    try:
        status = os.fstat(source.fileno())
    except (OSError, io.UnsupportedOperation):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
