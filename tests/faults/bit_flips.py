"""One bit of a data directory flipped, or one of its files damaged, at a time, as a process of its own.

    python -m tests.faults.bit_flips SCRATCH SHARD SHARDS FLIPS SEED

Two directories: one of a clean stop, one copied while the engine ran. FLIPS: how many bytes are tried in
each; 0: every byte, but for the database's, of which twice as many as of all others together.

Detected or harmless: each answer is the one of the undamaged directory, or says which records are damaged,
and these are those of the batch that was hit. No segment loses a byte, whatever happens.
"""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
import sys
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from takhin import errors
from takhin._fastlog import batch_info
from takhin.engine.base import ACKS_DURABLE
from takhin.engine.local import LocalEngine

from .backend import EngineBackend, open_engine
from .disk import Content, State
from .forks import in_child
from .history import demand
from .recover import empty, engine_on
from .script import script
from .session import GROUP, Session
from .trace import Marks

#: Shares of the flips: segments, what is derived from them, what vouches for that, the database.
SHARES = {"log": 0.45, "derived": 0.15, "seal": 0.2, "database": 0.2}
DAMAGES = ("missing", "empty", "half", "zeros", "garbage behind")

Records = dict[int, tuple[bytes, int]]


@dataclass(slots=True)
class Answers:
    """All that can be asked. Losses are (first, last) offsets, inclusive; times map a place and a time to
    an offset, or to None where the answer was DATA_LOSS."""

    topics: dict[str, int] = field(default_factory=dict)
    bounds: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    records: dict[tuple[str, int], Records] = field(default_factory=dict)
    losses: dict[tuple[str, int], list[tuple[int, int]]] = field(default_factory=dict)
    times: dict[tuple[str, int, int], int | None] = field(default_factory=dict)
    committed: dict[tuple[str, int], int] = field(default_factory=dict)


def ask(engine: LocalEngine, times: dict[tuple[str, int], list[int]]) -> Answers:
    answers = Answers()
    backend = EngineBackend(engine)
    answers.topics = backend.topics()
    answers.committed = backend.committed(GROUP)
    for topic, partitions in answers.topics.items():
        for partition in range(partitions):
            place = (topic, partition)
            answers.bounds[place] = backend.watermarks(topic, partition)
            answers.records[place], answers.losses[place] = read_around(engine, place, answers.bounds[place])
            for time in times.get(place, ()):
                try:
                    answers.times[topic, partition, time] = engine.offset_at_time(topic, partition, time).offset
                except errors.DataLoss:
                    answers.times[topic, partition, time] = None
    return answers


def read_around(
    engine: LocalEngine, place: tuple[str, int], bounds: tuple[int, int]
) -> tuple[Records, list[tuple[int, int]]]:
    """Read all of a partition, passing over what the engine says is damaged."""
    records: Records = {}
    losses: list[tuple[int, int]] = []
    at, end = bounds
    reader = engine.open_reader(*place, at)
    while at < end:
        try:
            batches = reader.read(3000)
        except errors.DataLoss as loss:
            first, last = int(loss.fields["first_offset"]), int(loss.fields["last_offset"])
            demand(first <= at <= last < end, f"{place}: lost {first} to {last}, asked for {at} of {end}")
            losses.append((at, last))
            at = last + 1
        else:
            demand(batches is not None, f"{place}: an empty answer at {at}, below {end}")
            assert batches is not None
            for offset, time, _, value, _ in batches.records():
                demand(offset == at, f"{place}: {offset} came after {at - 1}, and nobody said why")
                records[offset] = (value or b"", time)
                at += 1
        reader.advance(at)
    reader.close()
    return records, losses


class Reference:
    """An undamaged directory and its answers."""

    def __init__(self, name: str, directory: Path, scratch: Path) -> None:
        self.name = name
        self.state = State.of(directory)
        self.scratch = scratch
        self.times: dict[tuple[str, int], list[int]] = {}
        work = scratch / "reference"
        with empty(work):
            self.state.put(work)
            with engine_on(work) as engine:
                self.answers = ask(engine, {})
                for place, records in self.answers.records.items():
                    all_times = sorted(time for _, time in records.values())
                    self.times[place] = [time + n % 3 - 1 for n, time in enumerate(all_times) if n % 4 == 0]
                self.answers = ask(engine, self.times)
        assert not any(self.answers.losses.values())
        assert None not in self.answers.times.values()
        #: (topic, partition, name of the file) -> (positions of its batches, their first offsets).
        self.batches: dict[str, list[tuple[int, int, int]]] = {
            path: _batches(content.read()) for path, content in self.state.files.items() if path.endswith(".log")
        }

    def kinds(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {kind: [] for kind in SHARES}
        for path, content in self.state.files.items():
            if content.size and path not in ("reserve", "lock"):
                kind = {".log": "log", ".seal": "seal", ".db": "database"}.get(Path(path).suffix, "derived")
                found["database" if path.startswith("metadata") else kind].append(path)
        return found

    def batch_at(self, path: str, position: int) -> tuple[int, int]:
        """(first, last) offset of the batch that holds the byte."""
        batches = self.batches[path]
        n = bisect_right(batches, position, key=lambda batch: batch[0]) - 1
        return batches[n][1], batches[n][2]


def _batches(data: bytes) -> list[tuple[int, int, int]]:
    found, at = [], 0
    while (info := batch_info(data, at)) is not None and info.crc_ok:
        found.append((at, info.base_offset, info.last_offset))
        at += info.size
    return found


class Flipper:
    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.counts: Counter[str] = Counter()
        self.failures: list[dict[str, Any]] = []

    def check(self, what: str, path: str, content: Content | None, lost: tuple[int, int] | None) -> None:
        """Put ``content`` in the place of a file (None: remove it). ``lost``: records that may be lost."""
        reference = self.reference
        state = State(reference.state.directories, dict(reference.state.files), reference.state.links)
        if content is None:
            del state.files[path]
        else:
            state.files[path] = content
        directory = reference.scratch / "damaged"
        with empty(directory):
            state.put(directory)
            try:
                outcome = self._look(directory, path, lost)
            except Exception as problem:
                kept = reference.scratch / f"kept-{reference.name}-{len(self.failures)}"
                kept.mkdir()
                state.put(kept)
                text = f"{type(problem).__name__}: {problem}"
                self.failures.append({"what": what, "of": reference.name, "problem": text, "kept": str(kept)})
                outcome = "failed"
        self.counts[outcome] += 1

    def _look(self, directory: Path, path: str, lost: tuple[int, int] | None) -> str:
        reference = self.reference
        before = segments(directory)
        try:
            engine = open_engine(directory)
        except errors.MetadataDamaged as refusal:
            demand(path.startswith("metadata.db"), f"refused for {path}: {refusal.message}")
            demand("metadata.db" in refusal.message, f"no file is named: {refusal.message}")
            demand(segments(directory) == before, "segments were touched")
            return "refused"
        place = _place(path)
        try:
            answers = ask(engine, reference.times)
            outcome = self._compare(answers, place, lost)
            if place is not None:
                base, _ = EngineBackend(engine).produce(*place, [(None, b"new", 1)], ACKS_DURABLE)
                demand(base == reference.answers.bounds[place][1], f"a new record went to {base}")
                read = EngineBackend(engine).read(*place, base)
                demand(read == [(base, b"new")], f"the new record cannot be read: {read}")
        finally:
            engine.stop()
        after = segments(directory)
        kept = _quarantined(directory)
        for name, data in before.items():
            # What is cut or moved is kept, and was never part of the log.
            whole = data.startswith(after[name]) and data[len(after[name]) :] in kept if name in after else data in kept
            demand(whole or after.get(name, b"").startswith(data), f"{name} lost bytes")
            if name in after and name != path:
                demand(after[name].startswith(reference.state.files[name].read()), f"{name} lost records")
        return outcome

    def _compare(self, answers: Answers, place: tuple[str, int] | None, lost: tuple[int, int] | None) -> str:
        good = self.reference.answers
        demand(answers.topics == good.topics, f"topics: {answers.topics}")
        demand(answers.committed == good.committed, f"committed: {answers.committed}")
        demand(answers.bounds == good.bounds, f"bounds: {answers.bounds}, not {good.bounds}")
        for where, records in answers.records.items():
            for offset, record in records.items():
                demand(record == good.records[where][offset], f"{where} {offset}: {record}")
            for first, last in answers.losses[where]:
                demand(where == place and lost is not None, f"{where}: {first} to {last} lost")
                assert lost is not None
                demand(lost[0] <= first <= last <= lost[1], f"{where}: {first} to {last} lost, not only {lost}")
        for (topic, partition, time), offset in answers.times.items():
            right = offset == good.times[topic, partition, time]
            demand(right or (offset is None and (topic, partition) == place), f"at {time}: {offset} in {topic}")
        return "detected" if any(answers.losses.values()) else "harmless"


def segments(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.glob("*-*/*.log")}


def _quarantined(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in (directory / "quarantine").rglob("*") if path.is_file()]


def _place(path: str) -> tuple[str, int] | None:
    match = re.fullmatch(r"(.+)-(\d+)/\d{20}\.log", path)
    return (match[1], int(match[2])) if match else None


def make_references(scratch: Path) -> None:
    """``clean`` and ``live`` in ``scratch``."""

    def work() -> None:
        engine = open_engine(scratch / "clean")
        marks = Marks(None)
        for _, step in script(engine, marks, "b"):
            step()
        session = Session(EngineBackend(engine), marks, "e")
        session.create("e", 1)
        for n in range(12):
            session.produce("x", "e", 0, -1, 1 + n % 3, 60 + 20 * n)
            if n == 6:
                engine._manager.write_checkpoint()
        session.commit("e", 0, 5)
        shutil.copytree(scratch / "clean", scratch / "live")
        engine.stop()

    ended = in_child(work)
    assert "problem" not in ended.result, ended.result


def flips_of(reference: Reference, flips: int, random_: random.Random) -> list[tuple[str, int]]:
    """(file, byte), sorted."""
    kinds = reference.kinds()
    sizes = {path: reference.state.files[path].size for paths in kinds.values() for path in paths}
    chosen: list[tuple[str, int]] = []
    for kind, paths in kinds.items():
        if kind == "database":
            # The log is mostly room for later.
            places = [(path, n) for path in paths for n in range(min(sizes[path], 200_000))]
        else:
            places = [(path, n) for path in paths for n in range(sizes[path])]
        wanted = int(flips * SHARES[kind]) if flips else 2 * len(chosen) if kind == "database" else len(places)
        chosen += random_.sample(places, min(wanted, len(places)))
    return sorted(chosen)


def flipped(content: Content, position: int, bit: int) -> Content:
    number = position // 4096
    page = bytearray(content.pages.get(number, bytes(4096)))
    page[position % 4096] ^= 1 << bit
    return Content(content.size, {**content.pages, number: bytes(page)})


def damaged(content: Content, damage: str) -> Content | None:
    changed = content.copy()
    if damage == "missing":
        return None
    if damage == "empty":
        return Content()
    if damage == "half":
        changed.resize(content.size // 2)
    elif damage == "zeros":
        return Content(content.size)
    else:
        changed.write(content.size, b"\x02garbage!" * 30)
    return changed


def main(scratch: Path, shard: int, shards: int, flips: int, seed: int) -> dict[str, Any]:
    logging.disable(logging.CRITICAL)
    make_references(scratch)
    counts: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    for name in ("clean", "live"):
        reference = Reference(name, scratch / name, scratch)
        flipper = Flipper(reference)
        random_ = random.Random(f"{seed}/{name}")
        for path, position in flips_of(reference, flips, random_)[shard::shards]:
            bit = random_.randrange(8)
            lost = reference.batch_at(path, position) if path.endswith(".log") else None
            content = flipped(reference.state.files[path], position, bit)
            flipper.check(f"bit {bit} of byte {position} of {path}", path, content, lost)
            counts["flips"] += 1
        paths = [path for paths in reference.kinds().values() for path in paths]
        for path, damage in [(path, damage) for path in sorted(paths) for damage in DAMAGES][shard::shards]:
            batches = reference.batches.get(path)
            lost = (batches[0][1], batches[-1][2]) if batches else None
            flipper.check(f"{path}: {damage}", path, damaged(reference.state.files[path], damage), lost)
            counts["damaged files"] += 1
        counts.update({f"{name}: {outcome}": count for outcome, count in flipper.counts.items()})
        failures += flipper.failures
    return {"counts": counts, "failures": failures}


if __name__ == "__main__":
    scratch_, *numbers = sys.argv[1:]
    print(json.dumps(main(Path(scratch_), *map(int, numbers))))
