"""``takhin log``: looks into segments on disk, without a server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from . import exit_codes
from .connection import CommandFailed, interruptible
from .output import count_text, print_json, size_text

if TYPE_CHECKING:
    from .log_verify import PartitionReport


@click.group("log")
def command() -> None:
    """Look into segments on disk, without a server.

    \b
    Examples:
      takhin log verify /var/lib/takhin
      takhin log dump /var/lib/takhin/orders-0 --records
    """


@contextmanager
def _reading() -> Iterator[None]:
    """What keeps a file from being read is one line."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        code = exit_codes.NOT_FOUND if isinstance(error, FileNotFoundError) else exit_codes.FAILURE
        raise CommandFailed(f"{error.filename}: {error.strerror}", code) from None


@command.command("dump")
@click.argument("path", metavar="DIR|FILE", type=click.Path(path_type=Path))
@click.option("--records", is_flag=True, help="Show the records of each batch, too.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
@interruptible
def dump(path: Path, records: bool, as_json: bool) -> None:
    """Show the batches of segments: a data directory, a partition directory, or one .log file.

    Of an .index or .timeindex file it shows the entries. Exit code 6 when something is damaged.

    \b
    Examples:
      takhin log dump /var/lib/takhin/orders-0
      takhin log dump /var/lib/takhin/orders-0/00000000000000000000.log --records
      takhin log dump /var/lib/takhin/orders-0/00000000000000000000.index
      takhin log dump /var/lib/takhin --json | jq 'select(.crc_ok == false)'
    """
    from .log_dump import Dumper, json_line, text_line

    with _reading():
        dumper = Dumper(json_line if as_json else text_line, records)
        dumper.dump(path)
    if dumper.damaged:
        raise CommandFailed(f"{count_text(dumper.damaged, 'place')} damaged", exit_codes.DATA_LOSS)


@command.command("verify")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@interruptible
def verify(directory: Path, as_json: bool) -> None:
    """Read all partitions below DIR, a data directory or one partition's, and hold the files against each other.

    Checked are the CRC of every batch, that offsets are dense, within segments and from one to the next, and
    the indexes against the log. Files that are no part of a log are named. Nothing is changed. While a
    server runs, what it deletes meanwhile may look damaged.

    Exit code 0: all is well, or only unknown files were found; 1: an index is wrong, which the server
    finds and builds again; 6: records are damaged or missing; 3: no partition there.

    \b
    Examples:
      takhin log verify /var/lib/takhin
      takhin log verify /var/lib/takhin/orders-0 --json
    """
    from .log_verify import verify_partition
    from .log_walk import find_partitions, list_partition

    with _reading():
        partitions = [list_partition(path) for path in find_partitions(directory)]
        unknown = _unknown_names(directory, {files.path for files in partitions})
        if not partitions:
            raise CommandFailed(f"{directory}: no partition there", exit_codes.NOT_FOUND)
        total = sum(os.path.getsize(files.file(base)) for files in partitions for base in files.segments)
        reports = []
        with _progress(total) as progress:
            for files in partitions:
                reports.append(verify_partition(files, progress))
                if not as_json:
                    _print_report(reports[-1])
    kinds = {finding.kind for report in reports for finding in report.findings}
    if as_json:
        print_json(
            {
                "ok": not kinds & {"damage", "index"},
                "partitions": [asdict(report) for report in reports],
                "unknown": unknown,
            }
        )
    else:
        for name in unknown:
            click.echo(f"unknown: {directory / name}: not a part of a data directory")
        records = sum(report.records for report in reports)
        size = sum(report.size_bytes for report in reports)
        click.echo(f"{count_text(len(reports), 'partition')}, {count_text(records, 'record')}, {size_text(size)}")
    if "damage" in kinds:
        raise CommandFailed("records are damaged or missing", exit_codes.DATA_LOSS)
    if "index" in kinds:
        raise CommandFailed("an index is wrong; the log itself is whole")


@command.command("repair")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Do it. Without, it only says what it would do.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@interruptible
def repair(directory: Path, yes: bool, as_json: bool) -> None:
    """Mend what can be mended below DIR, a data directory or one partition's, while no server runs on it.

    A bad end of a log is cut; wrong index files are taken away, to be built again from the log at their next
    use. What is taken goes to quarantine/ in the data directory. Damage with good records behind it, and
    missing offsets, cannot be mended: the server says DATA_LOSS for them and serves the rest.

    The server does all this by itself at its start, but for cutting what it knows to be acknowledged.
    Exit code 0: nothing to do, or all done; 1: there is something to do, and no --yes; 6: something is there
    that cannot be mended; 5: a server runs.

    \b
    Examples:
      takhin log repair /var/lib/takhin
      takhin log repair /var/lib/takhin/orders-0 --yes
    """
    from ..errors import DataDirLocked
    from .log_repair import apply, owned, plan
    from .log_walk import find_partitions, list_partition

    with _reading():
        try:
            with owned(directory) as data_dir:
                partitions = [list_partition(path) for path in find_partitions(directory)]
                if not partitions:
                    raise CommandFailed(f"{directory}: no partition there", exit_codes.NOT_FOUND)
                plans = [plan(files) for files in partitions]
                actions = [action for found, _ in plans for action in found]
                lasting = [finding for _, rest in plans for finding in rest]
                done = (
                    [
                        {"action": action.text, "kept_in": [str(p) for p in apply(action, data_dir)]}
                        for action in actions
                    ]
                    if yes
                    else []
                )
        except DataDirLocked as error:
            raise CommandFailed(error.message, exit_codes.UNAVAILABLE) from None
    if as_json:
        print_json(
            {
                "done": done,
                "to_do": [] if yes else [action.text for action in actions],
                "cannot": [asdict(finding) for finding in lasting],
            }
        )
    else:
        for action in actions:
            click.echo(f"{'done' if yes else 'would'}: {action.text}")
        for finding in lasting:
            click.echo(f"cannot: {finding.path}: {finding.text}")
        if not actions and not lasting:
            click.echo("nothing to do")
    if lasting:
        raise CommandFailed("some damage cannot be mended", exit_codes.DATA_LOSS)
    if actions and not yes:
        raise CommandFailed("nothing was changed: --yes does it")


def _print_report(report: PartitionReport) -> None:
    wrong = any(finding.kind != "unknown" for finding in report.findings)
    click.echo(
        f"{os.path.basename(os.path.abspath(report.path))}: {count_text(report.segments, 'segment')},"
        f" {count_text(report.records, 'record')} in {count_text(report.batches, 'batch', 'batches')},"
        f" offsets {report.first_offset} to {report.end_offset} (exclusive), {size_text(report.size_bytes)}:"
        f" {'not well' if wrong else 'ok'}"
    )
    for finding in report.findings:
        place = f" at {finding.position}" if finding.position >= 0 else ""
        click.echo(f"  {finding.kind}: {finding.path}{place}: {finding.text}")


#: The database of the metadata and the files beside it, by the beginning of their names.
_METADATA_NAME: Final = "metadata.db"


def _unknown_names(directory: Path, partitions: set[Path]) -> list[str]:
    """Names in a data directory that are no part of one."""
    from ..storage.checkpoint import CHECKPOINT_NAME, CLEAN_NAME
    from ..storage.lock import LOCK_NAME
    from ..storage.manager import DELETED_NAME, HINTS_NAME
    from ..storage.quarantine import QUARANTINE_NAME
    from ..storage.space import RESERVE_NAME

    known = {CHECKPOINT_NAME, CLEAN_NAME, LOCK_NAME, HINTS_NAME, QUARANTINE_NAME, DELETED_NAME, RESERVE_NAME}
    if directory in partitions:
        return []
    return sorted(
        name
        for name in os.listdir(directory)
        if name.removesuffix(".tmp") not in known
        and directory / name not in partitions
        and not name.startswith(_METADATA_NAME)
    )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr when somebody watches."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = [BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task: Any = bar.add_task("", total=total)
        yield lambda done: bar.advance(task, done)
