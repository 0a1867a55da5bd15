"""The root of the commands. What a command needs is imported when it is used, not before."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from .. import __version__
from ..errors import ConfigError, TakhinError
from . import exit_codes
from .config_options import config_options, overrides

#: Name to one line of help. Each is ``command`` in the module of its name in this package.
COMMANDS: dict[str, str] = {
    "serve": "Run the server.",
    "topic": "Create, list, describe, alter and delete topics.",
    "produce": "Write records to a topic.",
    "consume": "Read records from a topic.",
    "group": "List, describe, reset and delete consumer groups.",
    "log": "Look into segments on disk, without a server.",
    "health": "Ask a server how it is.",
    "bench": "Measure a server.",
    "reload": "Make a running server read its configuration again.",
    "config": "Check, show and explain the server's configuration.",
    "completion": "Print the completion script for a shell.",
}


class LazyGroup(click.Group):
    """A group that imports a command when it is run, completed or asked for help, and not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = import_module(f".{cmd_name}", __package__).command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        commands = [CompletionItem(name, help=line) for name, line in COMMANDS.items() if name.startswith(incomplete)]
        return commands + super(click.Group, self).shell_complete(ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Whatever the project raises on purpose ends as a line on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except TakhinError as exc:
            for line in exc.message.splitlines() or [exc.reason]:
                click.echo(f"takhin: {line}", err=True)
            is_config = isinstance(exc, ConfigError)
            raise SystemExit(exit_codes.CONFIG if is_config else exit_codes.for_status(exc.code)) from None


_CODES = "\n".join(f"  {code:>2}  {meaning}" for code, meaning in exit_codes.DESCRIPTIONS.items())

_HELP = f"""A durable, partitioned commit log that speaks gRPC.

With --config (or another of these options) and no command, runs the server, as `takhin serve` does.

\b
Examples:
  takhin serve
  takhin --config /etc/takhin/takhin.yaml
  takhin topic create orders --partitions 3
  takhin produce orders --file orders.txt
  takhin consume orders --from earliest --follow

\b
Exit codes:
{_CODES}
"""


@click.group(cls=LazyGroup, invoke_without_command=True, help=_HELP)
@click.version_option(__version__, prog_name="takhin", message="%(prog)s %(version)s")
@config_options
@click.pass_context
def cli(
    ctx: click.Context,
    config: str | None,
    data_dir: str | None,
    addr: str | None,
    log_level: str | None,
    sets: tuple[str, ...],
) -> None:
    overriding = overrides(sets, data_dir=data_dir, addr=addr, log_level=log_level)
    given = config is not None or overriding
    if ctx.invoked_subcommand is None and given:
        from .serve import run_server  # only who runs the server pays for what it imports

        ctx.exit(run_server(config, overriding))
    elif ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
    elif given:
        raise click.UsageError(
            f"options before a command are the server's: write them after it, as in "
            f"`takhin {ctx.invoked_subcommand} ...`, if it has them"
        )


def main() -> None:
    """The console script."""
    cli(prog_name="takhin")
