"""What all clients of a run have in common: a thread, a name, a seed, a connection, the history."""

from __future__ import annotations

import random
import threading
import time
import traceback
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import grpc

from takhin.v1 import takhin_pb2 as pb

from . import values
from .history import History
from .victim import DEFINITE, Link, status_of


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    partitions: int


@dataclass(slots=True)
class Run:
    """What the clients of one run share."""

    seed: str
    address: str
    history: History
    #: Nothing is ever removed from the first; the log start of the second moves.
    keep: Topic = field(default_factory=lambda: Topic("keep", 3))
    trim: Topic = field(default_factory=lambda: Topic("trim", 2))
    stopping: threading.Event = field(default_factory=threading.Event)
    #: Producers that had an answer since this was cleared, by name.
    answered: set[str] = field(default_factory=set)

    def random(self, name: str) -> random.Random:
        return random.Random(f"{self.seed}/{name}")


class Worker(threading.Thread, ABC):
    """Does ``step`` again and again until the run ends. A step must end by itself, within some seconds."""

    def __init__(self, run: Run, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.shared = run
        self.history = run.history
        self.random = run.random(name)
        self.link = Link(run.address)

    @property
    def stopping(self) -> bool:
        return self.shared.stopping.is_set()

    @abstractmethod
    def step(self) -> None:
        """One round of its work."""

    def run(self) -> None:
        try:
            while not self.stopping:
                self.step()
        except Exception:
            if not self.stopping:
                self.history.note("unexpected", text=f"{self.name} broke down: {traceback.format_exc()[-2000:]}")
        finally:
            self.link.close()

    def pause(self, seconds: float) -> None:
        """About so long; less when the run ends."""
        self.shared.stopping.wait(self.random.uniform(0, 2 * seconds))

    def call(self, op: int, method: Any, request: Any, timeout: float) -> Any:
        """A unary call of an operation: notes its failure, and gives the response or None."""
        try:
            return method(request, timeout=timeout, wait_for_ready=True)
        except grpc.RpcError as error:
            self.failed(op, error)
            return None

    def failed(self, op: int, error: grpc.RpcError) -> tuple[str, str]:
        status, reason, _ = status_of(error)
        (self.history.fail if status in DEFINITE else self.history.info)(op, status, reason)
        return status, reason


class Sender(Worker):
    """A producer's values."""

    def __init__(self, run: Run, name: str) -> None:
        super().__init__(run, name)
        self._sequence = 0

    def records(self, count: int) -> tuple[list[str], list[pb.Record]]:
        """The next values, as (identities, records)."""
        identities, records = [], []
        for _ in range(count):
            identity, value = values.make(self.name, self._sequence, values.padding(self.random))
            self._sequence += 1
            identities.append(identity)
            # Half of them dated by the server, half by a clock that is two seconds off, either way.
            timestamp = 0
            if self.random.random() < 0.5:
                timestamp = int(time.time() * 1000) + self.random.randrange(-2000, 2000)
            records.append(pb.Record(value=value, timestamp=timestamp))
        return identities, records

    def place(self, any_partition: bool = False) -> tuple[str, int]:
        topic = self.shared.trim if self.random.random() < 0.3 else self.shared.keep
        if any_partition and self.random.random() < 0.5:
            return topic.name, -1
        return topic.name, self.random.randrange(topic.partitions)

    def answer(self, op: int, partition: int, base: int) -> None:
        self.history.ok(op, partition=partition, base=base)
        self.shared.answered.add(self.name)
