"""Writes the manual pages: ``takhin.1`` from the commands, ``takhin.yaml.5`` from the settings.

    python3 packaging/man.py FOLDER

Runs with any Python that has the package; SOURCE_DATE_EPOCH gives the date.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from takhin import __version__
from takhin.cli.main import cli
from takhin.config_setting import as_yaml, sections, settings


def escaped(text: str) -> str:
    """Text as roff prints it."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in text.splitlines())


def header(name: str, section: int, title: str) -> str:
    when = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    return f'.TH "{name.upper()}" {section} "{when}" "takhin {__version__}" "{title}"\n'


def paragraphs(help_text: str) -> Iterator[str]:
    r"""Click's help: a block that begins with ``\b`` keeps its lines."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(help_text)):
        lines = block.splitlines()
        if lines and lines[0].strip() == "\b":
            yield ".PP\n.nf\n" + escaped("\n".join(lines[1:])) + "\n.fi"
        else:
            yield ".PP\n" + escaped(block)


def options(ctx: click.Context, command: click.Command) -> Iterator[str]:
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None and record[0] != "--help":
            yield f".TP\n.B {escaped(record[0])}\n{escaped(record[1]) or 'No description.'}"


def commands(ctx: click.Context, group: click.Group) -> Iterator[tuple[str, click.Context, click.Command]]:
    """Every command below, with its full name."""
    for name in group.list_commands(ctx):
        found = group.get_command(ctx, name)
        if found is None or found.hidden:
            continue
        below = click.Context(found, info_name=name, parent=ctx)
        yield below.command_path, below, found
        if isinstance(found, click.Group):
            yield from commands(below, found)


def usage(ctx: click.Context, command: click.Command) -> str:
    return " ".join(command.collect_usage_pieces(ctx))


def takhin_1() -> str:
    root = click.Context(cli, info_name="takhin")
    parts = [
        header("takhin", 1, "User commands"),
        ".SH NAME\ntakhin \\- a durable, partitioned commit log that speaks gRPC",
        ".SH SYNOPSIS\n.B takhin\n.RI [ options ]\n.I command\n.RI [ arguments ]",
        ".SH DESCRIPTION",
        *paragraphs(cli.help or ""),
        ".SH OPTIONS",
        *options(root, cli),
        ".SH COMMANDS",
    ]
    for path, ctx, command in commands(root, cli):
        parts.append(f".SS {escaped(path)}\n.B {escaped(path)}\n{escaped(usage(ctx, command))}")
        parts += paragraphs(command.help or "")
        parts += options(ctx, command)
    parts.append(
        ".SH FILES\n.TP\n.I /etc/takhin.yaml\nConfiguration of the service; see\n.BR takhin.yaml (5).\n"
        ".TP\n.I /var/lib/takhin\nData of the service."
    )
    parts.append(".SH SEE ALSO\n.BR takhin.yaml (5),\n.BR systemctl (1)")
    return "\n".join(parts) + "\n"


def takhin_yaml_5() -> str:
    parts = [
        header("takhin.yaml", 5, "File formats"),
        ".SH NAME\ntakhin.yaml \\- configuration of the Takhin server",
        ".SH SYNOPSIS\n.I /etc/takhin.yaml",
        ".SH DESCRIPTION",
        escaped(
            "A YAML file. Settings that are left out have their defaults; unknown ones and values that cannot be are "
            "refused with their place. ${VAR} is taken from the environment, ${VAR:-default} falls back when it is "
            "unset or empty, and $${ is a plain ${."
        ),
        ".PP\nA path such as grpc.addr means the key addr below grpc.",
        ".PP\nSettings of the sections logging, memory, limits and topics change at a reload; all others at a restart.",
    ]
    for section in ("", *sections()):
        parts.append(f".SH {escaped(section.upper() or 'TOP LEVEL')}")
        if section:
            parts.append(escaped(sections()[section]))
        for setting in settings().values():
            if setting.section == section:
                text = f"{setting.description} Allowed: {setting.allowed}. Default: {as_yaml(setting.default)}."
                parts.append(f".TP\n.B {escaped(setting.path)}\n{escaped(text)}")
    parts.append(".SH SEE ALSO\n.BR takhin (1)")
    return "\n".join(parts) + "\n"


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "takhin.1").write_text(takhin_1())
    (folder / "takhin.yaml.5").write_text(takhin_yaml_5())


if __name__ == "__main__":
    main()
