"""What was promised about places: a consumer's position, watermarks, times (invariants 5 and 7)."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from .history import Event
from .model import Model, Op, Place, Violation


def check_streams(model: Model) -> Iterator[Violation]:
    """5. A stream begins where it was asked to, and neither skips nor goes back."""
    reads: dict[int, list[Event]] = defaultdict(list)
    for read in model.reads:
        reads[read["op"]].append(read)
    knowledge = _known_watermarks(model)
    for number, op in model.ops.items():
        if op.invoke["f"] != "stream":
            continue
        expected, watermark = _asked(op), -1
        for read in reads[number]:
            for offset, _, _ in read["records"]:
                if expected >= 0 and offset != expected:
                    yield Violation(5, f"a consumer got offset {offset} where {expected} comes next", (op.invoke, read))
                expected = offset + 1
            if read["records"] and read["hw"] < expected:
                yield Violation(
                    5, f"offset {expected - 1} was read above the high watermark {read['hw']}", (op.invoke, read)
                )
            if read["hw"] < watermark:
                yield Violation(5, f"the high watermark went from {watermark} to {read['hw']}", (op.invoke, read))
            watermark = max(watermark, read["hw"])
        if op.invoke.get("until_end") and op.outcome == "ok" and op.end:
            known = knowledge[model.place_of(op.invoke)].before(op.begun)
            # A partition without records ends before it begins.
            reached = max(expected, 0)
            if known is not None and reached < known[0] and not model.damages:
                yield Violation(
                    5,
                    f"a read to the end ended at {reached}; the high watermark was {known[0]}",
                    (known[1], *op.events),
                )
    for event in model.events:
        if event["e"] == "out_of_range" and event["position"] > event["hw"]:
            yield Violation(
                5,
                f"the high watermark is {event['hw']}, and a consumer had come to {event['position']}",
                (model.ops[event["op"]].invoke, event),
            )


def _asked(op: Op) -> int:
    """The offset where the stream must begin; -1 when that is not known here."""
    return -1 if op.invoke.get("group") else int(op.invoke["offset"])


@dataclass(slots=True)
class _Known:
    """The largest value that was known to have been reached, by place in the history."""

    at: list[int]
    best: list[tuple[int, Event]]

    def before(self, n: int) -> tuple[int, Event] | None:
        """The largest that was seen before event ``n``, and where."""
        found = bisect_left(self.at, n)
        return self.best[found - 1] if found else None

    def note(self, n: int, value: int, event: Event) -> None:
        if not self.best or value > self.best[-1][0]:
            self.at.append(n)
            self.best.append((value, event))


@dataclass(frozen=True, slots=True)
class _Look:
    """Somebody looked, between two places in the history, and saw these."""

    place: Place
    begun: int
    event: Event
    hw: int
    start: int


def _looks(model: Model) -> Iterator[_Look]:
    for event in model.events:
        kind = event["e"]
        if kind == "read" or kind == "out_of_range":
            begun = model.ops[event["op"]].begun
        elif kind == "drain":
            begun = event["n"]
        elif kind == "ok" and model.ops[event["op"]].invoke["f"] == "offsets":
            begun = model.ops[event["op"]].begun
        else:
            continue
        yield _Look(model.place_of(event), begun, event, event["hw"], event["start"])


def _known_watermarks(model: Model) -> dict[Place, _Known]:
    known: dict[Place, _Known] = defaultdict(lambda: _Known([], []))
    for event in model.events:
        kind = event["e"]
        if kind in ("read", "drain", "out_of_range"):
            value = event["hw"]
            if kind == "read" and event["records"]:
                value = max(value, event["records"][-1][0] + 1)
        elif kind == "ok":
            invoke = model.ops[event["op"]].invoke
            if invoke["f"] == "offsets":
                value = event["hw"]
            elif invoke["f"] == "produce" and invoke["acks"] == -1 and event["base"] >= 0:
                # On stable storage, hence readable.
                place = (invoke["topic"], event["partition"])
                known[place].note(event["n"], event["base"] + len(invoke["values"]), event)
                continue
            else:
                continue
        else:
            continue
        known[model.place_of(event)].note(event["n"], value, event)
    return known


def check_watermarks(model: Model) -> Iterator[Violation]:
    """5. The high watermark and the log start never go back, and the log start moves only when asked."""
    watermarks = _known_watermarks(model)
    starts: dict[Place, _Known] = defaultdict(lambda: _Known([], []))
    asked: dict[Place, int] = defaultdict(int)
    for event in model.events:
        if event["e"] == "invoke" and event["f"] == "delete_records":
            asked[model.place_of(event)] = max(asked[model.place_of(event)], event["offset"])
        elif event["e"] == "ok" and model.ops[event["op"]].invoke["f"] == "delete_records":
            starts[model.place_of(event)].note(event["n"], event["start"], event)
        elif "start" in event:
            place = model.place_of(event)
            starts[place].note(event["n"], event["start"], event)
            if event["start"] > asked[place]:
                yield Violation(
                    5,
                    f"{place[0]}-{place[1]} begins at {event['start']}; at most {asked[place]} was asked for",
                    (event,),
                )
    for look in _looks(model):
        for name, value, known in (
            ("high watermark", look.hw, watermarks[look.place].before(look.begun)),
            ("log start", look.start, starts[look.place].before(look.begun)),
        ):
            if known is not None and value < known[0]:
                yield Violation(
                    5,
                    f"the {name} of {look.place[0]}-{look.place[1]} went back from {known[0]} to {value}",
                    (known[1], look.event),
                )


def check_times(model: Model) -> Iterator[Violation]:
    """7. The earliest offset with a timestamp at or after T."""
    drains = {(drain["name"], *model.place_of(drain)): drain for drain in model.drains}
    for event in model.events:
        if event["e"] == "times":
            drain = drains.get((event["name"], *model.place_of(event)))
            if drain is not None and not drain.get("losses"):
                yield from _check_all_times(drain, event)
    last = {model.place_of(drain): _by_time(drain) for drain in model.drains if not drain.get("losses")}
    for op in model.ops.values():
        if op.invoke["f"] == "find_time" and op.outcome == "ok":
            place = model.place_of(op.invoke)
            if place in last:
                yield from _check_time_in_run(op, last[place])


@dataclass(frozen=True, slots=True)
class _ByTime:
    offsets: list[int]
    timestamps: list[int]
    #: The largest timestamp up to each record, which rises.
    highest: list[int]


def _by_time(drain: Event) -> _ByTime:
    timestamps = [timestamp for _, _, timestamp in drain["records"]]
    return _ByTime([record[0] for record in drain["records"]], timestamps, list(accumulate(timestamps, max)))


def _check_all_times(drain: Event, event: Event) -> Iterator[Violation]:
    """Nobody wrote between the drain and the questions: the answer is known exactly."""
    highest = _by_time(drain).highest
    previous = -1
    for time, offset, timestamp in sorted(event["answers"]):
        found = bisect_left(highest, time)
        expected = [-1, -1]
        if found < len(highest):
            expected = [drain["records"][found][0], drain["records"][found][2]]
        if [offset, timestamp] != expected:
            yield Violation(
                7,
                f"the earliest record at or after {time} is {expected}, and the answer was {[offset, timestamp]}",
                ({**event, "answers": [[time, offset, timestamp]]},),
            )
        if offset >= 0 and offset < previous:
            yield Violation(7, f"a later time, {time}, gave an earlier offset, {offset}", (event,))
        previous = max(previous, offset)


def _check_time_in_run(op: Op, drained: _ByTime) -> Iterator[Violation]:
    """While others wrote: the record is right, and none of those before it, which were all readable, is earlier."""
    assert op.end is not None
    time, found, timestamp = op.invoke["time"], op.end["offset"], op.end["timestamp"]
    if found < 0:
        return
    if timestamp < time:
        yield Violation(7, f"asked for {time}, answered with {timestamp}", op.events)
    at = bisect_left(drained.offsets, found)
    if at and drained.highest[at - 1] >= time:
        offset = drained.offsets[bisect_left(drained.highest, time)]
        yield Violation(7, f"offset {offset} is earlier than the answer for {time}", op.events)
    if at < len(drained.offsets) and drained.offsets[at] == found and drained.timestamps[at] != timestamp:
        yield Violation(7, f"offset {found} has timestamp {drained.timestamps[at]}, not {timestamp}", op.events)
