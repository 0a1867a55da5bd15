"""``takhin topic``: creates, lists, describes, alters and deletes topics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from .connection import confirmed, connection, interruptible, server_options
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..client import Topic, TopicConfig

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("topic")
def command() -> None:
    """Create, list, describe, alter and delete topics.

    \b
    Examples:
      takhin topic create orders --partitions 3
      takhin topic list
      takhin topic describe orders
      takhin topic alter orders --set retention.ms=86400000
      takhin topic delete orders --yes
    """


def assignments(pairs: Iterable[str], option: str) -> dict[str, str]:
    """``name=value`` pairs as a dictionary. Raises ``click.BadParameter``."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint=option)
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice", param_hint=option)
        found[name] = value
    return found


@contextmanager
def _passing_over(code: str, when: bool, message: str) -> Iterator[None]:
    """With ``when``, a call that fails with ``code`` is said and counts as done."""
    from ..client import ClientError

    try:
        yield
    except ClientError as error:
        if not when or error.code != code:
            raise
        click.echo(message)


@command.command("create")
@click.argument("name")
@click.option("--partitions", type=click.IntRange(min=1), help="How many; the server's default without it.")
@click.option("--config", "configs", metavar="NAME=VALUE", multiple=True, help="A topic config, by Kafka's name.")
@click.option("--if-not-exists", is_flag=True, help="Succeed when the topic is there already.")
@server_options
@interruptible
def create(
    name: str, partitions: int | None, configs: tuple[str, ...], if_not_exists: bool, addr: str, timeout: float
) -> None:
    """Create the topic NAME.

    \b
    Examples:
      takhin topic create orders
      takhin topic create orders --partitions 3 --config retention.ms=86400000
      takhin topic create orders --if-not-exists
    """
    values = assignments(configs, "--config")
    with (
        connection(addr, timeout) as client,
        _passing_over("ALREADY_EXISTS", if_not_exists, f"topic {name} is there already"),
    ):
        client.create_topic(name, partitions or 0, configs=values)
        click.echo(f"created topic {name}")


@command.command("list")
@_JSON
@server_options
@interruptible
def list_topics(as_json: bool, addr: str, timeout: float) -> None:
    """List the names of all topics, one a line.

    \b
    Examples:
      takhin topic list
      takhin topic list --json | jq -r '.[]'
    """
    with connection(addr, timeout) as client:
        names = client.list_topics()
    if as_json:
        print_json(names)
        return
    for name in names:
        click.echo(name)


@command.command("describe")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@_JSON
@server_options
@interruptible
def describe(names: tuple[str, ...], as_json: bool, addr: str, timeout: float) -> None:
    """Show partitions, offsets and configs of topics; of all without a NAME.

    BEGINNING is the first offset that can be read, END the next one after the last.

    \b
    Examples:
      takhin topic describe orders
      takhin topic describe orders payments --json
    """
    with connection(addr, timeout) as client:
        found = [(topic, client.topic_configs(topic.name)) for topic in client.describe_topics(names)]
    if as_json:
        print_json([_as_json(topic, configs) for topic, configs in found])
        return
    for index, (topic, configs) in enumerate(found):
        if index:
            click.echo()
        _print_topic(topic, configs)


def _print_topic(topic: Topic, configs: list[TopicConfig]) -> None:
    click.echo(f"Topic {topic.name}, partitions: {len(topic.partitions)}, replicas: {topic.replication_factor}")
    print_table(
        ["partition", "beginning", "end", "records"],
        [(p.partition, p.beginning_offset, p.end_offset, p.end_offset - p.beginning_offset) for p in topic.partitions],
    )
    if configs:
        click.echo()
        print_table(["config", "value", "source"], [(c.name, c.value, c.source) for c in configs])


def _as_json(topic: Topic, configs: list[TopicConfig]) -> dict[str, Any]:
    return {
        "name": topic.name,
        "replication_factor": topic.replication_factor,
        "partitions": [
            {
                "partition": p.partition,
                "beginning_offset": p.beginning_offset,
                "end_offset": p.end_offset,
                "leader": p.leader,
                "replicas": list(p.replicas),
                "isr": list(p.isr),
            }
            for p in topic.partitions
        ],
        "configs": {c.name: {"value": c.value, "source": c.source} for c in configs},
    }


@command.command("delete")
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--if-exists", is_flag=True, help="Succeed when there is no such topic.")
@server_options
@interruptible
def delete(name: str, yes: bool, if_exists: bool, addr: str, timeout: float) -> None:
    """Delete the topic NAME and all its records.

    \b
    Examples:
      takhin topic delete orders
      takhin topic delete orders --yes --if-exists
    """
    confirmed(f"Delete topic {name} and all its records?", yes)
    with (
        connection(addr, timeout) as client,
        _passing_over("NOT_FOUND", if_exists, f"there is no topic {name}"),
    ):
        client.delete_topic(name)
        click.echo(f"deleted topic {name}")


@command.command("alter")
@click.argument("name")
@click.option("--set", "changes", metavar="NAME=VALUE", multiple=True, help="Set a topic config.")
@click.option("--unset", metavar="NAME", multiple=True, help="Put a topic config back to the server's default.")
@click.option("--partitions", type=click.IntRange(min=1), help="The new total; it can only grow.")
@server_options
@interruptible
def alter(
    name: str, changes: tuple[str, ...], unset: tuple[str, ...], partitions: int | None, addr: str, timeout: float
) -> None:
    """Change the configs of the topic NAME, or give it more partitions.

    The configs change all or none, and before the partitions. With more partitions, the records of
    a key may go to another partition than before.

    \b
    Examples:
      takhin topic alter orders --set retention.ms=86400000 --unset segment.bytes
      takhin topic alter orders --partitions 6
    """
    values = assignments(changes, "--set")
    if not values and not unset and partitions is None:
        raise click.UsageError("nothing to change: give --set, --unset or --partitions")
    both = sorted(values.keys() & set(unset))
    if both:
        raise click.UsageError(f"both --set and --unset: {', '.join(both)}")
    with connection(addr, timeout) as client:
        if values or unset:
            client.alter_topic_configs(name, values, unset)
        if partitions is not None:
            client.create_partitions(name, partitions)
    click.echo(f"altered topic {name}")
