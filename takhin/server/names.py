"""Topic names, as far as the server looks at them: only once they were not found."""

from __future__ import annotations

import re

from ..errors import InvalidTopicName, TakhinError, TopicNotFound

#: Kafka's rule for topic names.
_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def is_topic_name(name: str) -> bool:
    return _TOPIC_NAME.fullmatch(name) is not None and name not in (".", "..")


def refine(error: TakhinError, topic: str) -> TakhinError:
    """A topic that cannot exist is a bad argument rather than something missing. It is looked at
    after the failure, so that a good call pays nothing."""
    if isinstance(error, TopicNotFound) and not is_topic_name(error.fields.get("topic", topic)):
        return InvalidTopicName(
            f"{topic!r} is not a topic name: 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-', and not '.' or '..'"
            if topic
            else "the topic's name is missing",
            bad_field="topic",
            topic=topic,
        )
    return error
