"""``takhin serve``: runs the server."""

from __future__ import annotations

import errno
import signal

import click

from . import exit_codes
from .config_options import config_options, overrides


def run_server(config: str | None, overriding: list[str]) -> int:
    """Run until a signal ends it, and give the exit code. What keeps it from starting becomes one line on stderr."""
    from ..config_file import load  # only who runs the server pays for its imports
    from ..errors import ConfigError, TakhinError
    from ..observe.logging import setup

    try:
        # From here on SIGHUP asks for a reload, also while the server is only starting.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        effective = load(config, overriding).config
        setup(effective.logging.level, effective.logging.format)
        from ..server.transport import choose_polling

        choose_polling()  # before the next line imports grpc
        from ..app import App

        return App(effective, reread=lambda: load(config, overriding).config).run()
    except ConfigError as exc:
        for line in exc.message.splitlines():
            click.echo(f"takhin: configuration: {line}", err=True)
        return exit_codes.CONFIG
    except TakhinError as exc:
        click.echo(f"takhin: cannot start: {exc.message}", err=True)
        return exit_codes.START_FAILED
    except OSError as exc:
        hint = " (is another server running?)" if exc.errno == errno.EADDRINUSE else ""
        click.echo(f"takhin: cannot start: {exc}{hint}", err=True)
        return exit_codes.START_FAILED


@click.command("serve")
@config_options
def command(
    config: str | None, data_dir: str | None, addr: str | None, log_level: str | None, sets: tuple[str, ...]
) -> None:
    """Run the server until SIGTERM or SIGINT. SIGHUP makes it read its configuration again.

    Without --config the defaults are in force: 127.0.0.1:9092, data in ./data.

    \b
    Examples:
      takhin serve
      takhin serve --config /etc/takhin/takhin.yaml
      takhin serve --data-dir /tmp/data --addr 127.0.0.1:9999
      takhin serve --set log.flush=interval --set logging.format=json

    \b
    Exit codes: 0 stopped cleanly, 2 could not start (data directory in use or damaged,
    address in use), 78 bad configuration, 1 anything else.
    """
    raise SystemExit(run_server(config, overrides(sets, data_dir=data_dir, addr=addr, log_level=log_level)))
