"""``takhin reload``: makes a running server read its configuration again."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path

import click

from . import exit_codes
from .config_options import overrides
from .connection import CommandFailed, interruptible

#: Seconds between looks at the outcome.
_LOOK = 0.02


def server_pid(data_dir: Path) -> int:
    """The process that owns a data directory. Raises ``CommandFailed``."""
    lock = data_dir / "lock"
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise CommandFailed(f"no server was ever started on {data_dir}", exit_codes.NOT_FOUND) from None
    except OSError as problem:
        raise CommandFailed(f"{lock}: {problem.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        if text.isdecimal():
            return int(text)
        raise CommandFailed(f"a server is starting on {data_dir}: try again", exit_codes.UNAVAILABLE) from None
    finally:
        os.close(fd)
    raise CommandFailed(f"no server is running on {data_dir}", exit_codes.UNAVAILABLE)


@click.command("reload")
@click.option("--config", "config", metavar="FILE", type=click.Path(), help="The server's configuration file.")
@click.option("--data-dir", metavar="DIR", type=click.Path(), help="Its data directory, if not the file's.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.001, max=3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the outcome.",
)
@interruptible
def command(config: str | None, data_dir: str | None, timeout: float) -> None:
    """Make a running server read its configuration again, and say what came of it.

    The server is found by its data directory, on this machine. Log level and format, limits, memory and
    topic defaults change at once, without a connection being dropped; what needs a restart is
    named. A file with problems is refused, and everything stays as it was.

    \b
    Examples:
      takhin reload --config /etc/takhin.yaml
      takhin reload --data-dir /var/lib/takhin

    \b
    Exit codes: 0 done, 1 refused by the server, 5 no server, or no answer in time,
    78 the file has problems: the server was not asked.
    """
    from ..config_file import load
    from ..reload import read_outcome

    directory = (
        Path(data_dir) if data_dir is not None else Path(load(config, overrides((), data_dir=None)).config.data_dir)
    )
    pid = server_pid(directory)
    before = read_outcome(directory)
    seen = before.number if before is not None and before.pid == pid else 0
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        raise CommandFailed(f"the server (pid {pid}) has just ended", exit_codes.UNAVAILABLE) from None
    except PermissionError:
        raise CommandFailed(f"the server (pid {pid}) belongs to another user") from None
    end = time.monotonic() + timeout
    while True:
        outcome = read_outcome(directory)
        if outcome is not None and outcome.pid == pid and outcome.number > seen:
            break
        if time.monotonic() >= end:
            raise CommandFailed(
                f"the server (pid {pid}) gave no answer in {timeout:g} s: see its log", exit_codes.UNAVAILABLE
            )
        time.sleep(_LOOK)
    if outcome.error:
        raise CommandFailed(f"refused, nothing is changed: {outcome.error}")
    click.echo("changed: " + (", ".join(outcome.changed) or "nothing"))
    if outcome.needs_restart:
        click.echo("needs a restart: " + ", ".join(outcome.needs_restart))
