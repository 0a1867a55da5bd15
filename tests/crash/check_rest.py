"""Commits and other settings, recovery, progress, and how the server ends (invariants 0, 6, 8, 9)."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .history import Event
from .model import Model, Violation

#: Seconds after a fault has gone within which every producer must have had an answer.
PROCEED_S = 5.0
#: Seconds that a stop may take.
STOP_S = 10.0


@dataclass(slots=True)
class _Register:
    """Something that is set and got again, and what it may hold by now."""

    #: Values that it may have: what was set last, and what may have been set since.
    possible: dict[str, Any] = field(default_factory=lambda: {repr(None): None})
    #: When each of those was last seen to have been possible, for values of unknown outcome.
    frozen: dict[str, int] = field(default_factory=dict)
    #: Settings whose outcome is not known, and which may still come to pass: op -> value.
    open: dict[int, Any] = field(default_factory=dict)
    #: Readers under way: op -> what they may find.
    readers: dict[int, set[str]] = field(default_factory=dict)
    last: Event | None = None

    def holds(self) -> set[str]:
        return set(self.possible) | {repr(value) for value in self.open.values()}

    def begin_set(self, op: int, value: Any) -> None:
        self.open[op] = value
        for found in self.readers.values():
            found.add(repr(value))

    def done(self, op: int, begun: int, event: Event) -> None:
        value = self.open.pop(op, None)
        since = {name: self.possible[name] for name, n in self.frozen.items() if n > begun and name in self.possible}
        self.possible = {repr(value): value, **since}
        self.frozen = {name: n for name, n in self.frozen.items() if name in since}
        self.last = event

    def freeze(self, op: int, n: int) -> None:
        """It came to pass or not, but cannot any more."""
        value = self.open.pop(op, None)
        self.possible[repr(value)] = value
        self.frozen[repr(value)] = n


def check_registers(model: Model) -> Iterator[Violation]:
    """6. What was set, and returned, is never got back as anything older. Each key has one who sets it."""
    registers: dict[str, _Register] = defaultdict(_Register)
    unknown: set[int] = set()
    downs = [event["n"] for event in model.events if event["e"] == "down"]
    for event in model.events:
        kind = event["e"]
        if kind == "down":
            for register in registers.values():
                for op in [op for op in register.open if op in unknown]:
                    register.freeze(op, event["n"])
        if "op" not in event:
            continue
        op, invoke = event["op"], model.ops[event["op"]].invoke
        what = invoke["f"]
        if what == "stream" and invoke.get("group"):
            register = registers[invoke["key"]]
            if kind == "invoke":
                register.readers[op] = register.holds()
            elif kind != "read":
                register.readers.pop(op, None)
            elif event["records"] and op in register.readers:
                allowed = register.readers.pop(op)
                begins = event["records"][0][0]
                if repr(begins) not in allowed and not (repr(None) in allowed and begins == max(invoke["offset"], 0)):
                    yield _older(register, allowed, begins, (invoke, event))
        if what not in ("set", "get"):
            continue
        register = registers[invoke["key"]]
        if kind == "invoke" and what == "set":
            register.begin_set(op, event["value"])
        elif kind == "invoke":
            register.readers[op] = register.holds()
        elif what == "get":
            allowed = register.readers.pop(op, set())
            if kind == "ok" and repr(event["value"]) not in allowed:
                yield _older(register, allowed, event["value"], (invoke, event))
        elif kind == "ok":
            register.done(op, invoke["n"], event)
        elif kind == "fail":
            register.open.pop(op, None)
        elif bisect_left(downs, invoke["n"]) != bisect_left(downs, event["n"]):
            register.freeze(op, event["n"])
        else:
            unknown.add(op)


def _older(register: _Register, allowed: set[str], found: Any, events: tuple[Event, ...]) -> Violation:
    last = (register.last,) if register.last else ()
    names = ", ".join(sorted(allowed))
    return Violation(6, f"{events[0]['key']} was {found!r}; it can only have been {names}", (*last, *events))


def check_recoveries(model: Model) -> Iterator[Violation]:
    """8. Recovering again gives the same bytes."""
    first: dict[str, Event] = {}
    for event in model.events:
        if event["e"] != "digest":
            continue
        before = first.setdefault(event["name"], event)
        if before["files"] != event["files"]:
            changed = sorted(
                path
                for path in {*before["files"], *event["files"]}
                if before["files"].get(path) != event["files"].get(path)
            )
            events = tuple(
                {**each, "files": {path: each["files"].get(path) for path in changed[:5]}} for each in (before, event)
            )
            yield Violation(8, f"a second recovery of {event['name']} changed {', '.join(changed[:5])}", events)


def check_progress(model: Model) -> Iterator[Violation]:
    """9. Once the server serves again, every producer gets answers within 5 s, if it is left alone for so long."""
    answered: dict[str, list[float]] = defaultdict(list)
    for produce in model.produces:
        if "#" in produce.topic:
            continue  # of the administrator, who produces now and then only
        times = answered[produce.invoke["w"]]
        if produce.outcome == "ok" and produce.end is not None:
            times.append(produce.end["t"])
    for times in answered.values():
        times.sort()
    ends = [event["t"] for event in model.events if event["e"] in ("fault", "down", "stopping")]
    for event in model.events:
        if event["e"] != "healed":
            continue
        later = bisect_left(ends, event["t"])
        if later == len(ends) or ends[later] - event["t"] < PROCEED_S:
            continue
        for producer, times in answered.items():
            found = bisect_left(times, event["t"])
            if found == len(times) or times[found] - event["t"] > PROCEED_S:
                yield Violation(
                    9, f"{producer} had no answer within {PROCEED_S:g} s after the fault had gone", (event,)
                )


def check_server(model: Model) -> Iterator[Violation]:
    """0. It ends when it is asked to, and never else; what it cuts, it keeps."""
    for event in model.events:
        if event["e"] == "unexpected":
            yield Violation(0, event["text"], (event,))
        elif event["e"] == "exit" and (event["code"] != 0 or event["seconds"] >= STOP_S):
            yield Violation(0, f"a stop ended with {event['code']} after {event['seconds']:.1f} s", (event,))
        elif event["e"] == "cut" and event["kept"] < event["bytes"]:
            yield Violation(0, f"{event['bytes']} torn bytes were cut and {event['kept']} kept in quarantine", (event,))
