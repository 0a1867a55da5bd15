"""A history taken apart, for the checks. Pure: it looks at nothing but the events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .history import Event

Place = tuple[str, int]

#: After every event of a history.
NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Violation:
    """``invariant`` is its number in ``checker.INVARIANTS``; ``events`` are those concerned."""

    invariant: int
    text: str
    events: tuple[Event, ...] = ()

    def __str__(self) -> str:
        lines = "".join(f"\n    {clipped(event)}" for event in self.events[:6])
        return f"invariant {self.invariant}: {self.text}{lines}"


def clipped(event: Event, limit: int = 400) -> str:
    text = str({name: value for name, value in event.items() if name != "n"})
    return f"#{event.get('n', '?')} {text if len(text) <= limit else text[:limit] + ' ...'}"


@dataclass(slots=True)
class Op:
    """An operation and what became of it."""

    invoke: Event
    end: Event | None = None

    @property
    def outcome(self) -> str:
        """``ok``, ``fail`` or ``info``; an operation without an end is unknown."""
        return "info" if self.end is None else str(self.end["e"])

    @property
    def begun(self) -> int:
        return int(self.invoke["n"])

    @property
    def ended(self) -> int:
        return NEVER if self.end is None else int(self.end["n"])

    @property
    def events(self) -> tuple[Event, ...]:
        return (self.invoke,) if self.end is None else (self.invoke, self.end)


@dataclass(slots=True)
class Produce(Op):
    @property
    def topic(self) -> str:
        return str(self.invoke["topic"])

    @property
    def values(self) -> list[str]:
        return list(self.invoke["values"])

    @property
    def acks(self) -> int:
        return int(self.invoke["acks"])

    def answered(self) -> Iterator[tuple[Place, int, str]]:
        """((topic, partition), offset, identity) of what the answer promised; nothing without one."""
        if self.end is not None and self.outcome == "ok" and self.end["base"] >= 0:
            place = (self.topic, int(self.end["partition"]))
            for n, value in enumerate(self.values):
                yield place, int(self.end["base"]) + n, value


@dataclass(slots=True)
class Model:
    events: Sequence[Event]
    ops: dict[int, Op] = field(default_factory=dict)
    produces: list[Produce] = field(default_factory=list)
    #: By (topic, identity): all operations that sent it.
    senders: dict[tuple[str, str], list[Produce]] = field(default_factory=lambda: defaultdict(list))
    reads: list[Event] = field(default_factory=list)
    drains: list[Event] = field(default_factory=list)
    #: Records whose bytes were damaged on purpose: inclusive ranges.
    damages: dict[Place, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    #: The power was cut: acks 1 promised nothing.
    power_cut: bool = False

    def place_of(self, event: Event) -> Place:
        """Of an event that has topic and partition, or belongs to an operation that has."""
        if "topic" not in event:
            event = self.ops[event["op"]].invoke
        return (str(event["topic"]), int(event["partition"]))

    def damaged(self, place: Place, offset: int) -> bool:
        return any(first <= offset <= last for first, last in self.damages.get(place, ()))

    def promised(self, produce: Produce) -> bool:
        """Whether its answer, if it has one, is a promise of the records' places."""
        return produce.acks == -1 or (produce.acks == 1 and not self.power_cut)


def take_apart(events: Sequence[Event]) -> Model:
    model = Model(events)
    for event in events:
        kind = event["e"]
        if kind == "invoke":
            op: Op
            if event["f"] == "produce":
                op = produce = Produce(event)
                model.produces.append(produce)
                for value in event["values"]:
                    model.senders[(event["topic"], value)].append(produce)
            else:
                op = Op(event)
            model.ops[event["op"]] = op
        elif kind in ("ok", "fail", "info"):
            # The first end counts: a second one would be the history's own mistake.
            if model.ops[event["op"]].end is None:
                model.ops[event["op"]].end = event
        elif kind == "read":
            model.reads.append(event)
        elif kind == "drain":
            model.drains.append(event)
        elif kind == "damage":
            model.damages[model.place_of(event)].append((event["first"], event["last"]))
        elif kind == "power_cut":
            model.power_cut = True
    return model
