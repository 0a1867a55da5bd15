"""What was promised at each place of a trace, and whether a recovered directory keeps it."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from takhin._fastlog import Batches, batch_info

from .disk import Disk, FileChange, Inode
from .records import parse_value, timestamp_of
from .trace import Event, Kind

#: A partition of one incarnation of a topic.
Place = tuple[str, int, int]
Log = dict[int, tuple[bytes, int]]


@dataclass(slots=True)
class Observed:
    """What a recovered engine says."""

    #: Topic -> partitions.
    topics: dict[str, int] = field(default_factory=dict)
    #: (topic, partition) -> (log start, high watermark, [(offset, value, timestamp)]).
    logs: dict[tuple[str, int], tuple[int, int, list[tuple[int, bytes, int]]]] = field(default_factory=dict)
    committed: dict[tuple[str, int], int] = field(default_factory=dict)


class Broken(AssertionError):
    """A promise was not kept."""


def demand(kept: bool, what: str) -> None:
    if not kept:
        raise Broken(what)


class History:
    """The marks of a run, and what its logs would hold if nothing had failed."""

    def __init__(self, marks: Iterable[dict[str, Any]], truth: Mapping[Place, Log]) -> None:
        self.marks: list[tuple[int, dict[str, Any]]] = list(enumerate(marks))
        self.truth: Mapping[Place, Log] = truth
        self.indexes = [index for index, _ in self.marks]
        #: What holds after a power cut; after the end of a process alone, acks 1 counts too.
        self.binding_acks: tuple[int, ...] = (-1,)

    @classmethod
    def of_trace(cls, events: Iterable[Event], root: str) -> History:
        """The truth comes from the writes themselves, so it also has what nobody was told of."""
        truth: dict[Place, Log] = defaultdict(dict)
        marks = list(_read_trace(events, root, truth))
        history = cls((), truth)
        history.marks = marks
        history.indexes = [index for index, _ in marks]
        history.check_marks()
        return history

    def check_marks(self) -> None:
        """What was answered and shown is what was written. Raises ``Broken``."""
        for _, mark in self.marks:
            if mark["m"] not in ("ack", "shown"):
                continue
            log = self.truth[mark["t"], mark["inc"], mark["p"]]
            for offset, value in enumerate(mark["vals"], mark["base"]):
                demand(log.get(offset, (b"",))[0] == value.encode(), f"{mark} is not what was written")
        for log in self.truth.values():
            for value, _ in log.values():
                parse_value(value)

    def at(self, index: int) -> Promises:
        """What had been promised before the event with this index."""
        promises = Promises(self)
        for _, mark in self.marks[: bisect_left(self.indexes, index)]:
            promises.take(mark)
        return promises

    def at_end(self) -> Promises:
        return self.at(self.indexes[-1] + 1 if self.indexes else 0)


def _read_trace(events: Iterable[Event], root: str, truth: dict[Place, Log]) -> Iterator[tuple[int, dict[str, Any]]]:
    disk = Disk(root)
    made: dict[str, int] = defaultdict(int)
    places: dict[int, Place] = {}
    for event in events:
        if event.kind == Kind.MARK:
            yield event.index, event.mark
        change = disk.apply(event)
        if event.kind == Kind.MKDIR:
            made[event.path] += 1
        elif isinstance(change, FileChange) and change.data and change.inode.path.endswith(".log"):
            inode = change.inode
            if inode.number not in places:
                places[inode.number] = _place(inode, made)
            _note_batches(truth[places[inode.number]], change.data)


def _note_batches(log: Log, data: bytes) -> None:
    at = 0
    while at < len(data):
        info = batch_info(data, at)
        assert info is not None
        assert info.crc_ok, "half a batch was written"
        for offset, timestamp, _, value, _ in Batches(data[at : at + info.size], info.base_offset).records():
            record = (value or b"", timestamp)
            demand(log.setdefault(offset, record) == record, f"offset {offset} was given twice")
        at += info.size


class SentValues(dict[int, tuple[bytes, int]]):
    """A log of which only the answers are known: any other offset may hold what was sent to this place
    and not surely refused."""

    def __init__(self, maybe: set[bytes]) -> None:
        super().__init__()
        self.maybe = maybe


def truth_of_marks(marks: Iterable[dict[str, Any]]) -> dict[Place, Log]:
    """From what was asked and answered, when nobody looked at the writes."""
    maybe: dict[Place, set[bytes]] = defaultdict(set)
    truth: dict[Place, Log] = {}
    for mark in marks:
        if mark["m"] not in ("send", "refused", "ack"):
            continue
        place = (mark["t"], mark["inc"], mark["p"])
        log = truth.setdefault(place, SentValues(maybe[place]))
        values = [value.encode() for value in mark["vals"]]
        if mark["m"] == "send":
            maybe[place].update(values)
        else:
            maybe[place].difference_update(values)
        if mark["m"] == "ack":
            for offset, value in enumerate(values, mark["base"]):
                sent = parse_value(value)
                record = (value, timestamp_of(sent.producer, sent.sequence))
                demand(log.setdefault(offset, record) == record, f"offset {offset} of {place} was given twice")
    return truth


def _place(inode: Inode, made: dict[str, int]) -> Place:
    directory = PurePosixPath(inode.path).parent
    topic, _, partition = directory.name.rpartition("-")
    return topic, made[str(directory)], int(partition)


@dataclass(slots=True)
class _Topic:
    """Incarnations: asked for and made, to be deleted and deleted; partitions asked for and made."""

    asked: int = 0
    made: int = 0
    doomed: int = 0
    gone: int = 0
    most: int = 0
    least: int = 0


@dataclass(slots=True)
class _Bounds:
    end: int = 0
    start: int = 0
    #: Somebody asked for a log start up to here.
    trimmed: int = 0


class Promises:
    def __init__(self, history: History) -> None:
        self._history = history
        self._topics: dict[str, _Topic] = defaultdict(_Topic)
        self._bounds: dict[Place, _Bounds] = defaultdict(_Bounds)
        self._committed: dict[Place, int] = {}
        self._asked_commits: dict[Place, set[int]] = defaultdict(set)
        self.last_producer_id = 0
        #: The newest acknowledged batch of each idempotent producer: (place, base, values, stamp).
        self.newest: dict[int, tuple[Place, int, list[str], tuple[int, int, int]]] = {}

    def take(self, mark: dict[str, Any]) -> None:
        what = mark["m"]
        if what == "pid":
            self.last_producer_id = max(self.last_producer_id, mark["id"])
        elif what in ("topic?", "topic", "delete?", "delete", "grow?", "grow"):
            self._take_topic(what, self._topics[mark["t"]], mark)
        elif "p" in mark:
            self._take_place(what, (mark["t"], mark["inc"], mark["p"]), mark)

    def _take_topic(self, what: str, topic: _Topic, mark: dict[str, Any]) -> None:
        if what == "topic?":
            topic.asked, topic.most, topic.least = mark["inc"], mark["n"], 0
        elif what == "topic":
            topic.made, topic.least = mark["inc"], mark["n"]
        elif what == "delete?":
            topic.doomed = mark["inc"]
        elif what == "delete":
            topic.gone = mark["inc"]
        elif what == "grow?":
            topic.most = mark["n"]
        else:
            topic.least = mark["n"]

    def _take_place(self, what: str, place: Place, mark: dict[str, Any]) -> None:
        bounds = self._bounds[place]
        if what == "ack" and mark["acks"] in self._history.binding_acks:
            bounds.end = max(bounds.end, mark["base"] + len(mark["vals"]))
            if mark["stamp"]:
                self.newest[mark["stamp"][0]] = (place, mark["base"], mark["vals"], tuple(mark["stamp"]))
        elif what == "shown":
            bounds.end = max(bounds.end, mark["base"] + len(mark["vals"]))
        elif what == "marks":
            bounds.end = max(bounds.end, mark["hwm"])
            bounds.start = max(bounds.start, mark["start"])
        elif what == "trim?":
            bounds.trimmed = max(bounds.trimmed, mark["o"])
        elif what == "commit?":
            self._asked_commits[place].add(mark["o"])
        elif what == "commit":
            self._committed[place] = mark["o"]
            self._asked_commits[place] = {mark["o"]}

    # -- holding a recovered directory against them ---------------------------------------------

    def check(self, observed: Observed) -> None:
        """Raises ``Broken``."""
        for name, topic in self._topics.items():
            if topic.made and topic.made == topic.asked and topic.doomed < topic.made:
                demand(name in observed.topics, f"topic {name} is gone")
        for name, partitions in observed.topics.items():
            topic = self._topics.get(name, _Topic())
            demand(topic.asked > topic.gone, f"topic {name} was deleted, or never made, and is there")
            incarnations = range(max(topic.gone + 1, topic.made), topic.asked + 1)
            if topic.made == topic.asked:
                demand(topic.least <= partitions <= topic.most, f"topic {name} has {partitions} partitions")
            for partition in range(partitions):
                problems = []
                for incarnation in incarnations:
                    try:
                        self._check_log(observed, (name, incarnation, partition))
                        break
                    except Broken as problem:
                        problems.append(problem)
                else:
                    raise problems[-1]
        self._check_commits(observed)

    def _check_log(self, observed: Observed, place: Place) -> None:
        name, _, partition = place
        start, end, records = observed.logs[name, partition]
        bounds, truth = self._bounds[place], self._history.truth.get(place, {})
        where = f"{name}-{partition} ({start} to {end})"
        demand(start <= end, f"{where}: it starts behind its end")
        demand(end >= bounds.end, f"{where}: offsets below {bounds.end} were acknowledged, or seen, and are gone")
        demand(start >= bounds.start, f"{where}: its start was {bounds.start} once")
        if name != "kept":
            highest = max(bounds.start, bounds.trimmed)
            demand(start <= highest, f"{where}: nobody asked for a start above {highest}")
        demand([offset for offset, *_ in records] == list(range(start, end)), f"{where}: not dense: {records}")
        values = [value for _, value, _ in records]
        demand(len(values) == len(set(values)), f"{where}: a value is there twice: {values}")
        for offset, value, timestamp in records:
            expected = truth.get(offset)
            if expected is None and isinstance(truth, SentValues):
                demand(value in truth.maybe, f"{where}: {offset} holds {value!r}, which was refused or never sent")
                continue
            demand(expected == (value, timestamp), f"{where}: {offset} holds {value!r}, not {expected}")

    def _check_commits(self, observed: Observed) -> None:
        for place, offset in self._committed.items():
            name, incarnation, partition = place
            topic = self._topics[name]
            if topic.doomed >= incarnation:
                continue
            allowed = self._asked_commits[place] | {offset}
            found = observed.committed.get((name, partition), -1)
            demand(found in allowed, f"{name}-{partition}: committed {found}, not one of {sorted(allowed)}")

    def is_current(self, place: Place) -> bool:
        """Whether that incarnation was made, and nobody asked for its end."""
        topic = self._topics[place[0]]
        return topic.made == topic.asked == place[1] > topic.doomed
