"""``takhin consume``: reads records of a topic to a terminal, a file or a pipe."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from . import exit_codes
from .connection import (
    INTERRUPTED,
    CommandFailed,
    connection,
    interruptible,
    server_options,
    sigterm_as_interrupt,
)
from .output import silence_stdout
from .position import HELP as POSITION_HELP
from .position import Position, PositionType
from .produce import separator
from .record_output import FORMATS, Formatter, formatter

if TYPE_CHECKING:
    from ..client import Client, ConsumedRecord, Partition

#: Offsets are committed at most so often, seconds, and at the end.
_COMMIT_EVERY: Final = 1.0


class _Committer:
    """Commits what was written. Without a group it does nothing."""

    def __init__(self, client: Client, group: str, topic: str) -> None:
        self._client = client
        self._group = group
        self._topic = topic
        self._written: dict[int, int] = {}
        self._due = 0.0

    def written(self, partition: int, next_offset: int) -> None:
        """Everything below ``next_offset`` is out of this process."""
        if self._group:
            if not self._written:
                self._due = time.monotonic() + _COMMIT_EVERY
            self._written[partition] = next_offset

    def patience(self) -> float | None:
        """Seconds until a commit is due; None when none is."""
        return max(self._due - time.monotonic(), 0.0) if self._written else None

    def commit_if_due(self) -> None:
        if self._written and time.monotonic() >= self._due:
            self.commit()

    def commit(self) -> None:
        if self._written:
            self._client.commit(self._group, [(self._topic, p, offset) for p, offset in sorted(self._written.items())])
            self._written.clear()


class _Writer:
    """Writes records out, and tells the committer what has left."""

    def __init__(self, out: BinaryIO, form: Formatter, committer: _Committer, max_records: int) -> None:
        self._out = out
        self._format = form
        self._committer = committer
        #: None: no bound.
        self.remaining: int | None = max_records or None

    def write(self, records: list[ConsumedRecord]) -> bool:
        """False when there have been enough."""
        if self.remaining is not None:
            records = records[: self.remaining]
            self.remaining -= len(records)
        if records:
            self._out.write(self._format(records))
            self._out.flush()
            self._committer.written(records[-1].partition, records[-1].offset + 1)
        return self.remaining is None or self.remaining > 0


@click.command("consume")
@click.argument("topic")
@click.option("--partition", "-p", "partitions", type=click.IntRange(min=0), multiple=True, help="All without it.")
@click.option(
    "--from", "start", type=PositionType(), help=f"{POSITION_HELP} [default: earliest; with --follow: latest]"
)
@click.option("--follow", "-f", is_flag=True, help="Wait for new records until it is interrupted.")
@click.option("--group", "-g", help="Start where this group has committed, else at --from.")
@click.option("--commit", is_flag=True, help="Commit the group's offsets once the records were written out.")
@click.option("--max-records", "-n", type=click.IntRange(min=1), help="End after so many records.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="value", show_default=True, help="See above.")
@click.option("--key-separator", default="\\t", show_default=True, metavar="TEXT", help="For --format key-value.")
@server_options
@interruptible
def command(
    topic: str,
    partitions: tuple[int, ...],
    start: Position | None,
    follow: bool,
    group: str | None,
    commit: bool,
    max_records: int | None,
    form: str,
    key_separator: str,
    addr: str,
    timeout: float,
) -> None:
    """Read records of TOPIC to stdout.

    Without --follow it ends at the end that each partition had when it began, and goes through
    one partition after another. With --follow it reads all at once and stays connected,
    also over restarts of the server.

    \b
    Formats:
      value            the value and a newline (null: an empty line)
      key-value        key, separator, value and a newline
      json             one object a line; what is not UTF-8 is in key_base64 and value_base64
      raw              the values, nothing between them
      length-prefixed  4 bytes of length, big endian, then the value; 0xFFFFFFFF alone is a null value

    Ctrl-C and SIGTERM commit what was written. Then the exit code is 0 with --follow, which has no
    other end, and 130 without. When the reader of a pipe goes away, the command ends with 0.

    \b
    Examples:
      takhin consume orders
      takhin consume orders --follow
      takhin consume orders --from -1h --format json | jq .value
      takhin consume orders --from 2025-01-31T12:00:00Z --partition 0 --max-records 10
      takhin consume orders --follow --from earliest --group billing --commit
    """
    if commit and not group:
        raise click.UsageError("--commit needs --group")
    if start is None:
        start = Position("latest" if follow else "earliest")
    separating = separator(key_separator) or b""
    with ExitStack() as stack:
        stack.enter_context(sigterm_as_interrupt())
        client = stack.enter_context(connection(addr, timeout))
        chosen = _choose(client, topic, partitions)
        offsets = _starts(client, topic, chosen, start, group)
        committer = _Committer(client, group or "" if commit else "", topic)
        writer = _Writer(sys.stdout.buffer, formatter(form, separating), committer, max_records or 0)
        interrupted = False
        try:
            try:
                if follow:
                    _follow(client, topic, offsets, group or "", writer, committer)
                else:
                    ends = {p.partition: p.end_offset for p in chosen}
                    _read_to_end(client, topic, offsets, ends, group or "", writer, committer)
            finally:
                committer.commit()
        except KeyboardInterrupt:
            interrupted = True
        except BrokenPipeError:
            silence_stdout()
        except OSError as error:
            silence_stdout()
            raise CommandFailed(f"cannot write: {error.strerror or error}") from None
    if interrupted and not follow:
        raise SystemExit(INTERRUPTED)


def _choose(client: Client, topic: str, numbers: tuple[int, ...]) -> list[Partition]:
    found = client.describe_topic(topic).partitions
    if not numbers:
        return list(found)
    by_number = {p.partition: p for p in found}
    for number in numbers:
        if number not in by_number:
            raise CommandFailed(f"topic {topic} has no partition {number}", exit_codes.NOT_FOUND)
    return [by_number[number] for number in sorted(set(numbers))]


def _starts(
    client: Client, topic: str, partitions: list[Partition], start: Position, group: str | None
) -> dict[int, int]:
    """Where to begin in each partition: what the group has committed, else ``start``."""
    numbers = [p.partition for p in partitions]
    offsets = start.resolve(client, topic, numbers)
    if group:
        committed = client.committed(group, [(topic, number) for number in numbers])
        offsets.update((o.partition, o.offset) for o in committed if o.offset >= 0)
    return offsets


def _read_to_end(
    client: Client,
    topic: str,
    offsets: dict[int, int],
    ends: dict[int, int],
    group: str,
    writer: _Writer,
    committer: _Committer,
) -> None:
    for number, offset in offsets.items():
        if offset == ends[number]:
            continue
        with client.consume(
            topic,
            number,
            offset=offset,
            group=group,
            until_end=True,
            end_offset=ends[number],
            max_records=writer.remaining or 0,
            reconnect_timeout=client.timeout,
        ) as consumer:
            for records in consumer.chunks():
                if not writer.write(records):
                    return
                committer.commit_if_due()


def _follow(
    client: Client, topic: str, offsets: dict[int, int], group: str, writer: _Writer, committer: _Committer
) -> None:
    from .tailing import Tail

    consumers = [client.consume(topic, number, offset=offset, group=group) for number, offset in offsets.items()]
    with Tail(consumers) as tail:
        while True:
            try:
                records = tail.next(committer.patience())
            except EOFError:
                return
            if records is not None and not writer.write(records):
                return
            committer.commit_if_due()
