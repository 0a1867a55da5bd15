"""The checker: holds a history against what was promised. Pure; it looks at nothing but the events.

``python -m tests.crash.checker HISTORY`` checks a file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from . import history
from .check_places import check_streams, check_times, check_watermarks
from .check_records import check_dense, check_kept, check_losses, check_values
from .check_rest import check_progress, check_recoveries, check_registers, check_server
from .history import Event
from .model import Model, Violation, take_apart

INVARIANTS = {
    0: "The server ends when it is asked to, with code 0, and keeps what it cuts.",
    1: "Every acknowledged record, and every record that was read, is at its offset for ever.",
    2: "One value, one offset; no value nobody sent; no definite failure that is read.",
    3: "A drained partition is dense and in each producer's order.",
    4: "One (partition, offset), one value: over all reads, answers and restarts.",
    5: "A consumer's positions never go back or skip; nor do the high watermark and the log start.",
    6: "A commit that returned is never read back lower, unless reset.",
    7: "The earliest offset with timestamp >= T is right, also after the index is rebuilt.",
    8: "Recovering twice gives the same bytes as recovering once.",
    9: "After the fault has gone, producers proceed within 5 s.",
}

CHECKS: tuple[Callable[[Model], Iterator[Violation]], ...] = (
    check_server,
    check_losses,
    check_kept,
    check_values,
    check_dense,
    check_streams,
    check_watermarks,
    check_registers,
    check_times,
    check_recoveries,
    check_progress,
)
#: Of one check: the first few tell what the rest would repeat.
MOST_OF_A_CHECK = 5


def check(events: Iterable[Event]) -> list[Violation]:
    """The first violations of each kind; none when all is well. ``events`` are numbered."""
    model = take_apart(list(events))
    found: list[Violation] = []
    for each in CHECKS:
        for violation in each(model):
            found.append(violation)
            if sum(other.invariant == violation.invariant for other in found) >= MOST_OF_A_CHECK:
                break
    return found


def report(violations: Sequence[Violation]) -> str:
    return "\n".join(str(violation) for violation in violations)


if __name__ == "__main__":
    violations = check(history.read(Path(sys.argv[1])))
    print(report(violations) or "no violation")
    sys.exit(bool(violations))
