"""The exit codes of every command: a promise to scripts, so numbers never change their meaning."""

from __future__ import annotations

from typing import Final

#: Done.
OK: Final = 0
#: Failed, for a reason that has no number of its own.
FAILURE: Final = 1
#: The command line is wrong (click's own number).
USAGE: Final = 2
#: The server could not start: data directory in use or damaged, address in use.
START_FAILED: Final = 2
#: The topic, partition, group, offset or file is not there.
NOT_FOUND: Final = 3
#: The topic is there already.
ALREADY_EXISTS: Final = 4
#: The server cannot be reached, is stopping, is out of something, or took too long: try again later.
UNAVAILABLE: Final = 5
#: Stored data is damaged.
DATA_LOSS: Final = 6
#: The configuration cannot be used (``EX_CONFIG`` of sysexits.h).
CONFIG: Final = 78

#: For ``--help``.
DESCRIPTIONS: Final[dict[int, str]] = {
    OK: "done",
    FAILURE: "failed, for a reason that has no number of its own",
    USAGE: "wrong command line, or the server could not start",
    NOT_FOUND: "topic, partition, group, offset or file not found",
    ALREADY_EXISTS: "exists already",
    UNAVAILABLE: "server unreachable, stopping, overloaded or too slow: try again later",
    DATA_LOSS: "stored data is damaged",
    CONFIG: "the configuration cannot be used",
}

#: Exit code for the name of a gRPC status code, as in ``TakhinError.code``; others are FAILURE.
BY_STATUS: Final[dict[str, int]] = {
    "OK": OK,
    "NOT_FOUND": NOT_FOUND,
    "OUT_OF_RANGE": NOT_FOUND,
    "ALREADY_EXISTS": ALREADY_EXISTS,
    "UNAVAILABLE": UNAVAILABLE,
    "DEADLINE_EXCEEDED": UNAVAILABLE,
    "RESOURCE_EXHAUSTED": UNAVAILABLE,
    "DATA_LOSS": DATA_LOSS,
}


def for_status(code: str) -> int:
    """The exit code for a gRPC status code's name."""
    return BY_STATUS.get(code, FAILURE)
