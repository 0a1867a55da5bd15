"""``takhin config``: checks, shows and explains a server's configuration."""

from __future__ import annotations

import json

import click

from .. import config_file
from ..config import warnings
from ..config_reference import reference
from ..config_setting import as_yaml, settings
from . import exit_codes
from .config_options import config_options, overrides


@click.group("config")
def command() -> None:
    """Check, show and explain the server's configuration.

    \b
    Examples:
      takhin config check /etc/takhin/takhin.yaml
      takhin config show --config /etc/takhin/takhin.yaml
      takhin config reference > takhin.yaml
    """


@command.command("check")
@click.argument("file", type=click.Path())
@click.option("--set", "sets", metavar="PATH=VALUE", multiple=True, help="As on the server's command line.")
def check(file: str, sets: tuple[str, ...]) -> None:
    """Check a configuration FILE and print every problem.

    Variables are taken from this command's environment. Exit code 0 when a server would take
    the file, 1 when it would not. Warnings do not change it.
    """
    loaded, problems = config_file.examine(file, sets)
    for problem in problems:
        click.echo(str(problem), err=True)
    if loaded is None:
        raise SystemExit(exit_codes.FAILURE)
    for warning in warnings(loaded.config):
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{file}: ok")


@command.command("show")
@config_options
@click.option("--json", "as_json", is_flag=True, help="One object: the setting's path to its value and origin.")
def show(
    config: str | None,
    data_dir: str | None,
    addr: str | None,
    log_level: str | None,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the effective value of every setting and where it came from.

    The origin is default, file FILE:LINE, environment VAR or command line. Takes the options of
    `takhin serve`, so that it shows what that command would run with.
    """
    loaded = config_file.load(config, overrides(sets, data_dir=data_dir, addr=addr, log_level=log_level))
    rows = []
    for path, setting in settings().items():
        value, origin = setting.value_in(loaded.config), loaded.origins[path]
        if value is None and setting.optional:  # it follows the log section
            source = f"log.{setting.attribute}"
            value, origin = settings()[source].value_in(loaded.config), f"{source}: {loaded.origins[source]}"
        rows.append((path, value, origin))
    if as_json:
        click.echo(json.dumps({path: {"value": value, "origin": origin} for path, value, origin in rows}, indent=2))
        return
    widths = [max(len(row[0]) for row in rows), max(len(as_yaml(row[1])) for row in rows)]
    for path, value, origin in rows:
        click.echo(f"{path:<{widths[0]}}  {as_yaml(value):<{widths[1]}}  {origin}")


@command.command("reference")
def show_reference() -> None:
    """Print a configuration file with every setting, its meaning and its default."""
    click.echo(reference(), nl=False)
