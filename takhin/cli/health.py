"""``takhin health``: asks a server how it is."""

from __future__ import annotations

import click

from . import exit_codes
from .connection import connection, interruptible, server_address, server_options
from .output import print_json


@click.command("health")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@server_options
@interruptible
def command(as_json: bool, addr: str, timeout: float) -> None:
    """Ask a server how it is.

    Exit code 0: healthy and serving; 1: degraded, unhealthy or about to stop; 5: not reached.

    \b
    Examples:
      takhin health
      takhin health --addr 10.0.0.5:9092 --timeout 2 --json
    """
    from ..client import ClientError

    with connection(addr, timeout) as client:
        health = client.health()
        try:
            serving = client.serving()
        except ClientError as error:
            if error.code not in ("UNIMPLEMENTED", "NOT_FOUND"):
                raise
            serving = "UNKNOWN"
    if as_json:
        print_json(
            {
                "address": server_address(addr),
                "status": health.status,
                "serving": serving,
                "version": health.version,
                "uptime_seconds": health.uptime_seconds,
            }
        )
    else:
        click.echo(f"{health.status}, {serving}, version {health.version}, up {duration(health.uptime_seconds)}")
    if health.status != "healthy" or serving == "NOT_SERVING":
        raise SystemExit(exit_codes.FAILURE)


def duration(seconds: int) -> str:
    """``2d 3h``: the two largest units."""
    parts = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
