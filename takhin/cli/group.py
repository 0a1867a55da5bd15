"""``takhin group``: lists, describes, resets and deletes consumer groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import exit_codes
from .connection import CommandFailed, confirmed, connection, interruptible, server_options
from .output import count_text, print_json, print_table
from .position import HELP as POSITION_HELP
from .position import Position, PositionType

if TYPE_CHECKING:
    from ..client import Client, Group

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("group")
def command() -> None:
    """List, describe, reset and delete consumer groups.

    A group is known from its first commit or member on.

    \b
    Examples:
      takhin group list
      takhin group describe billing
      takhin group reset billing --topic orders --to earliest
      takhin group delete billing --yes
    """


@command.command("list")
@_JSON
@server_options
@interruptible
def list_groups(as_json: bool, addr: str, timeout: float) -> None:
    """List all groups.

    \b
    Examples:
      takhin group list
      takhin group list --json
    """
    with connection(addr, timeout) as client:
        groups = client.list_groups()
    if as_json:
        print_json([{"group": g.group_id, "state": g.state, "members": g.member_count} for g in groups])
        return
    print_table(["group", "state", "members"], [(g.group_id, g.state, g.member_count) for g in groups])


@command.command("describe")
@click.argument("group")
@_JSON
@server_options
@interruptible
def describe(group: str, as_json: bool, addr: str, timeout: float) -> None:
    """Show the committed offsets, the lag and the members of GROUP.

    COMMITTED is the next offset that the group reads, END the next after the last record, LAG what lies between.

    \b
    Examples:
      takhin group describe billing
      takhin group describe billing --json | jq '[.offsets[].lag] | add'
    """
    with connection(addr, timeout) as client:
        found = client.describe_group(group)
    if as_json:
        print_json(_as_json(found))
        return
    click.echo(f"Group {found.group_id}, state: {found.state}, members: {found.member_count}")
    print_table(
        ["topic", "partition", "committed", "end", "lag"],
        [(o.topic, o.partition, o.committed_offset, o.log_end_offset, o.lag) for o in found.offsets],
    )
    if found.members:
        click.echo()
        print_table(
            ["member", "client", "host", "reads"],
            [
                (m.member_id, m.client_id, m.client_host, ", ".join(f"{t}-{p}" for t, p, _ in m.assignments))
                for m in found.members
            ],
        )


def _as_json(group: Group) -> dict[str, Any]:
    return {
        "group": group.group_id,
        "state": group.state,
        "protocol_type": group.protocol_type,
        "offsets": [
            {
                "topic": o.topic,
                "partition": o.partition,
                "committed_offset": o.committed_offset,
                "log_end_offset": o.log_end_offset,
                "lag": o.lag,
            }
            for o in group.offsets
        ],
        "members": [
            {
                "member_id": m.member_id,
                "client_id": m.client_id,
                "client_host": m.client_host,
                "assignments": [{"topic": t, "partition": p, "next_offset": o} for t, p, o in m.assignments],
            }
            for m in group.members
        ],
    }


@command.command("delete")
@click.argument("group")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@server_options
@interruptible
def delete(group: str, yes: bool, addr: str, timeout: float) -> None:
    """Forget GROUP and its committed offsets. Refused while the group has members.

    \b
    Examples:
      takhin group delete billing
      takhin group delete billing --yes
    """
    confirmed(f"Delete group {group} and its committed offsets?", yes)
    with connection(addr, timeout) as client:
        client.delete_group(group)
    click.echo(f"deleted group {group}")


@command.command("reset")
@click.argument("group")
@click.option("--topic", required=True, help="The topic whose offsets are set.")
@click.option("--to", type=PositionType(), required=True, help=POSITION_HELP)
@click.option("--partition", "partitions", type=click.IntRange(min=0), multiple=True, help="All without it.")
@click.option("--dry-run", is_flag=True, help="Show what would be set, and set nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@_JSON
@server_options
@interruptible
def reset(
    group: str,
    topic: str,
    to: Position,
    partitions: tuple[int, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    addr: str,
    timeout: float,
) -> None:
    """Set the committed offsets of GROUP in a topic. Refused while the group has members.

    A time becomes the first record at or after it, or the end where there is none. An offset that a
    partition does not have is an error.

    \b
    Examples:
      takhin group reset billing --topic orders --to earliest --dry-run
      takhin group reset billing --topic orders --to 2025-01-31T12:00:00Z --yes
      takhin group reset billing --topic orders --to 1234 --partition 0 --yes
    """
    with connection(addr, timeout) as client:
        _refuse_members(client, group)
        described = {p.partition: p for p in client.describe_topic(topic).partitions}
        numbers = sorted(set(partitions)) or sorted(described)
        for number in numbers:
            if number not in described:
                raise CommandFailed(f"topic {topic} has no partition {number}", exit_codes.NOT_FOUND)
        offsets = to.resolve(client, topic, numbers)
        for number, offset in offsets.items():
            first, end = described[number].beginning_offset, described[number].end_offset
            if to.kind == "offset" and not first <= offset <= end:
                raise CommandFailed(
                    f"offset {offset} is not in partition {number} of {topic}: it has {first} to {end}",
                    exit_codes.NOT_FOUND,
                )
        before = {o.partition: o.offset for o in client.committed(group, [(topic, number) for number in numbers])}
        rows = [(topic, number, before.get(number, -1), offsets[number]) for number in numbers]
        if not as_json:
            print_table(["topic", "partition", "committed", "new"], [_shown(row) for row in rows])
        if not dry_run:
            confirmed(f"Set {count_text(len(rows), 'offset')} of group {group}?", yes)
            client.commit(group, [(topic, number, offsets[number]) for number in numbers])
        if as_json:
            names = ("topic", "partition", "before", "committed_offset")
            print_json([dict(zip(names, row, strict=True)) for row in rows])


def _shown(row: tuple[str, int, int, int]) -> tuple[object, ...]:
    topic, partition, before, new = row
    return (topic, partition, "-" if before < 0 else before, new)


def _refuse_members(client: Client, group: str) -> None:
    """A group with members would commit over what is set here."""
    from ..client import ClientError

    try:
        found = client.describe_group(group)
    except ClientError as error:
        if error.reason == "GROUP_NOT_FOUND" or (not error.reason and error.code == "NOT_FOUND"):
            return  # the reset makes it
        raise
    if found.member_count:
        raise CommandFailed(f"group {group} has {count_text(found.member_count, 'member')}: stop them first")
