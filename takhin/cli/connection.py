"""How a command reaches a server, and how what the server refuses is told."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import click

from .. import address
from . import exit_codes

if TYPE_CHECKING:
    from ..client import Client, ClientError

DEFAULT_ADDR: Final = "127.0.0.1:9092"
_DEFAULT_PORT: Final = 9092

#: What shells give for a command that Ctrl-C ended.
INTERRUPTED: Final = 130

_Command = TypeVar("_Command", bound=Callable[..., Any])


class CommandFailed(click.ClickException):
    """A failure as one line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = exit_codes.FAILURE) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"takhin: error: {self.format_message()}", err=True)


def one_line(text: str) -> str:
    return " ".join(text.split())


def failed(error: ClientError) -> CommandFailed:
    """What a failed call becomes: ``<message> (<CODE>/<REASON>)`` and the exit code for its kind."""
    return CommandFailed(f"{one_line(error.message)} ({error.label})", exit_codes.for_status(error.code))


def server_address(text: str) -> str:
    """``host:port`` to connect to. The port may be missing; no host, or all interfaces, means this machine."""
    bare_host = ":" not in text or (text.startswith("[") and text.endswith("]"))
    try:
        parsed = address.parse(f"{text}:{_DEFAULT_PORT}" if bare_host else text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--addr") from None
    if parsed.port == 0:
        raise click.BadParameter("port 0 is nothing to connect to", param_hint="--addr")
    if parsed.is_wildcard:
        return f"127.0.0.1:{parsed.port}"
    return str(parsed)


def server_options(command: _Command) -> _Command:
    """Adds ``--addr`` and ``--timeout``: the parameters ``addr`` and ``timeout``."""
    command = click.option(
        "--timeout",
        type=click.FloatRange(min=0.001, max=86_400),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long one call may take.",
    )(command)
    return click.option(
        "--addr",
        envvar="TAKHIN_ADDR",
        show_envvar=True,
        default=DEFAULT_ADDR,
        show_default=True,
        metavar="HOST:PORT",
        help="The server.",
    )(command)


@contextmanager
def connection(addr: str, timeout: float) -> Iterator[Client]:
    """A client; a ``ClientError`` inside becomes ``CommandFailed``."""
    target = server_address(addr)
    # gRPC's own warnings are not for the people who type commands.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from ..client import Client, ClientError  # gRPC takes a while to import

    try:
        with Client(target, timeout=timeout) as client:
            yield client
    except ClientError as error:
        if not error.reason and error.transport_broken:
            cause = one_line(error.message).rsplit(": ", 1)[-1]  # of a list of all that was tried, the last
            raise CommandFailed(f"cannot reach {target}: {cause} ({error.label})", exit_codes.UNAVAILABLE) from None
        raise failed(error) from None


def interruptible(command: _Command) -> _Command:
    """Ctrl-C ends the command with exit code 130, without a traceback."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None

    return wrapper  # type: ignore[return-value]


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM ends the command as Ctrl-C does: in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def confirmed(question: str, yes: bool) -> None:
    """Go on when the user agrees, by ``--yes`` or at the terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("this needs --yes when nobody can be asked")
    if not click.confirm(question):
        raise CommandFailed("nothing was done")
