"""Producers that send one call after the other."""

from __future__ import annotations

from typing import Any

import grpc

from takhin.v1 import takhin_pb2 as pb

from .victim import DEFINITE, status_of
from .worker import Run, Sender

DEFAULT = None


class UnaryProducer(Sender):
    """ProduceMessage or ProduceBatch; a value is sent once, whatever becomes of it."""

    def __init__(self, run: Run, name: str, *, batch: bool, acks: tuple[int | None, ...], pause: float) -> None:
        """``acks`` None leaves the choice to the server, whose default is -1."""
        super().__init__(run, name)
        self._batch, self._acks, self._pause = batch, acks, pause

    def step(self) -> None:
        topic, partition = self.place(any_partition=True)
        acks = self.random.choice(self._acks)
        identities, records = self.records(self.random.randrange(1, 20) if self._batch else 1)
        if self.random.random() < 0.5:
            records[0].key = self.random.randbytes(4)
        place = {"topic": topic, "partition": partition}
        op = self.history.invoke(self.name, "produce", **place, acks=-1 if acks is None else acks, values=identities)
        timeout = self.random.choice((1.0, 3.0, 5.0))
        if self._batch:
            request = pb.ProduceBatchRequest(**place, records=records, required_acks=acks)
            answer = self.call(op, self.link.stub.ProduceBatch, request, timeout)
        else:
            request = pb.ProduceMessageRequest(**place, record=records[0], required_acks=acks)
            answer = self.call(op, self.link.stub.ProduceMessage, request, timeout)
        if answer is not None:
            self.answer(op, answer.partition, answer.base_offset if self._batch else answer.offset)
        self.pause(self._pause)


class IdempotentProducer(Sender):
    """Sends each batch until it has an answer, however often; now and then once more after that; now and then takes
    the next epoch, and then tries the old one too, which must fail."""

    def __init__(self, run: Run, name: str, pause: float) -> None:
        super().__init__(run, name)
        self._pause = pause
        self._producer_id, self._epoch = 0, 0
        self._next: dict[tuple[str, int], int] = {}

    def step(self) -> None:
        if not self._producer_id and not self._begin():
            return
        place = self.place()
        acks = self.random.choice((-1, -1, 1))
        sequence = self._next.get(place, 0)
        identities, request = self._request(place, acks, sequence, self._epoch)
        asked = {"topic": place[0], "partition": place[1], "acks": acks, "values": identities, "idempotent": True}
        op = self.history.invoke(self.name, "produce", **asked)
        if not self._send(op, request):
            self._producer_id = 0
            return
        self._next[place] = sequence + len(identities)
        if self.random.random() < 0.1:
            again = self.history.invoke(self.name, "produce", **asked, repeat=op)
            self._send(again, request)
        elif self.random.random() < 0.05:
            self._take_next_epoch(place)
        self.pause(self._pause)

    def _request(self, place: tuple[str, int], acks: int, sequence: int, epoch: int) -> tuple[list[str], Any]:
        single = self.random.random() < 0.3
        identities, records = self.records(1 if single else self.random.randrange(1, 10))
        common: dict[str, Any] = {
            "topic": place[0],
            "partition": place[1],
            "required_acks": acks,
            "producer_id": self._producer_id,
            "producer_epoch": epoch,
        }
        if single:
            return identities, pb.ProduceMessageRequest(**common, record=records[0], sequence=sequence)
        return identities, pb.ProduceBatchRequest(**common, records=records, base_sequence=sequence)

    def _send(self, op: int, request: Any) -> bool:
        """Until there is an answer; False when it failed for good, or the run is over."""
        single = isinstance(request, pb.ProduceMessageRequest)
        method = self.link.stub.ProduceMessage if single else self.link.stub.ProduceBatch
        while not self.stopping:
            try:
                answer = method(request, timeout=self.random.choice((0.5, 2.0, 4.0)), wait_for_ready=True)
            except grpc.RpcError as error:
                status, reason, _ = status_of(error)
                if status in DEFINITE:
                    self.history.fail(op, status, reason)
                    return False
                continue
            self.answer(op, answer.partition, answer.offset if single else answer.base_offset)
            return True
        return False

    def _begin(self) -> bool:
        try:
            answer = self.link.stub.InitProducerId(pb.InitProducerIdRequest(), timeout=5, wait_for_ready=True)
        except grpc.RpcError:
            return False
        self._producer_id, self._epoch, self._next = answer.producer_id, answer.producer_epoch, {}
        return True

    def _take_next_epoch(self, place: tuple[str, int]) -> None:
        old = self._epoch
        request = pb.InitProducerIdRequest(producer_id=self._producer_id, producer_epoch=old)
        try:
            answer = self.link.stub.InitProducerId(request, timeout=5, wait_for_ready=True)
        except grpc.RpcError:
            self._producer_id = 0  # which epoch is the present one is not known: begin anew
            return
        identities, fenced = self._request(place, -1, self._next.get(place, 0), old)
        asked = {"topic": place[0], "partition": place[1], "acks": -1, "values": identities}
        op = self.history.invoke(self.name, "produce", **asked, idempotent=True, fenced=True)
        self._send(op, fenced)
        self._producer_id, self._epoch, self._next = answer.producer_id, answer.producer_epoch, {}
