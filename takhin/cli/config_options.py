"""The options that choose and override a server's configuration, shared by the commands that read one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_OVERRIDES = {"data_dir": "data_dir", "addr": "grpc.addr", "log_level": "logging.level"}


def config_options(function: F) -> F:
    """Adds --config, --data-dir, --addr, --log-level and --set."""
    options = (
        click.option("--config", "config", metavar="FILE", type=click.Path(), help="Configuration file (YAML)."),
        click.option("--data-dir", metavar="DIR", type=click.Path(), help="Overrides data_dir."),
        click.option("--addr", metavar="HOST:PORT", help="Overrides grpc.addr; :9092 is all interfaces."),
        click.option("--log-level", metavar="LEVEL", help="Overrides logging.level: debug, info, warning or error."),
        click.option("--set", "sets", metavar="PATH=VALUE", multiple=True, help="Overrides any setting; repeatable."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def overrides(sets: tuple[str, ...], **named: str | None) -> list[str]:
    """``PATH=VALUE`` for ``config_file.load`` from the values of those options; a named one beats --set."""
    return [*sets, *(f"{_OVERRIDES[name]}={value}" for name, value in named.items() if value is not None)]
