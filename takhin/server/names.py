"""Topic names, as far as the server looks at them: only once they were not found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import InvalidTopicName, TakhinError, TopicNotFound

#: Kafka's rule for topic names.
_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def is_topic_name(name: str) -> bool:
    return _TOPIC_NAME.fullmatch(name) is not None and name not in (".", "..")


def refine(error: TakhinError, named: Iterable[tuple[str, str]]) -> TakhinError:
    """A topic that cannot exist is a bad argument rather than something missing. ``named`` gives
    the (request field, topic name) pairs of the request.

    It is looked at after the failure, so that a good call pays nothing.
    """
    if isinstance(error, TopicNotFound):
        for field, name in named:
            if not is_topic_name(name):
                return InvalidTopicName(
                    f"{name[:300]!r} is not a topic name: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-', "
                    "and not '.' or '..'",
                    bad_field=field,
                    topic=name[:300],
                )
    return error


def names_in(request: Any) -> Iterator[tuple[str, str]]:
    """The topic names of a request that is a protobuf message, with their fields."""
    for field in request.DESCRIPTOR.fields_by_name:
        value = getattr(request, field)
        if field in ("name", "topic"):
            yield field, value
        elif field == "topics":
            yield from (("topics", name) for name in value)
        elif field in ("offsets", "queries", "partitions"):
            yield from ((f"{field}.topic", each.topic) for each in value)
