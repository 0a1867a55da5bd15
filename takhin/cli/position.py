"""Where to start reading, as people write it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import click

if TYPE_CHECKING:
    from ..client import Client

HELP: Final = (
    "earliest, latest, an offset, or a time: ISO 8601 (local time unless it says otherwise), "
    "milliseconds since the epoch with 'ms' behind (1700000000000ms), or how long ago (-90s, -15m, -1h, -7d)."
)
_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_AGO = re.compile(r"-([0-9]+)(ms|s|m|h|d|w)")
_MAX_OFFSET: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Position:
    kind: Literal["earliest", "latest", "offset", "time"]
    #: The offset, or milliseconds since the epoch.
    value: int = 0

    def resolve(self, client: Client, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """The offset in each partition; the high watermark where no record is at or after a time.

        An offset is given as it is: whether a partition has it is for the server to judge.
        """
        numbers = list(partitions)
        if self.kind == "offset":
            return dict.fromkeys(numbers, self.value)
        earliest, latest = -1, -2
        at = {"earliest": earliest, "latest": latest, "time": self.value}[self.kind]
        found = {o.partition: o.offset for o in client.list_offsets((topic, number, at) for number in numbers)}
        missing = [number for number, offset in found.items() if offset < 0]
        if missing:
            ends = client.list_offsets((topic, number, latest) for number in missing)
            found.update((o.partition, o.offset) for o in ends)
        return found


def parse(text: str, now_ms: int) -> Position:
    """Raises ``ValueError`` with a sentence that says what can be written."""
    if text == "earliest":
        return Position("earliest")
    if text == "latest":
        return Position("latest")
    if text.isascii() and text.isdigit():
        if int(text) > _MAX_OFFSET:
            raise ValueError(f"{text} is larger than any offset")
        return Position("offset", int(text))
    if re.fullmatch(r"[0-9]{1,18}ms", text):
        return Position("time", int(text[:-2]))
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return Position("time", max(now_ms - int(ago[1]) * _UNIT_MS[ago[2]], 0))
    try:
        at = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is none of: {HELP}") from None
    if at < 0:
        raise ValueError(f"{text!r} is before 1970")
    return Position("time", round(at * 1000))


class PositionType(click.ParamType):  # type: ignore[type-arg]
    """A ``Position`` on the command line."""

    name = "position"

    def get_metavar(self, param: click.Parameter, *args: Any, **kwargs: Any) -> str:
        return "earliest|latest|OFFSET|TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Position:
        if isinstance(value, Position):
            return value
        try:
            return parse(str(value), time.time_ns() // 1_000_000)
        except ValueError as error:
            self.fail(str(error), param, ctx)
