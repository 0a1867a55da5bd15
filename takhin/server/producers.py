"""Producer ids, for idempotent produce."""

from __future__ import annotations

import grpc

from ..engine.base import Engine
from ..errors import InvalidArgument
from ..v1 import takhin_pb2 as pb
from .produce_codec import MAX_EPOCH


class Producers:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def init(self, request: pb.InitProducerIdRequest, _context: grpc.ServicerContext) -> pb.InitProducerIdResponse:
        if request.producer_id < 0:
            raise InvalidArgument(
                f"producer_id is {request.producer_id}: must be 0 (a new producer) or an id", bad_field="producer_id"
            )
        if not 0 <= request.producer_epoch <= MAX_EPOCH:
            raise InvalidArgument(
                f"producer_epoch is {request.producer_epoch}: must be 0 to {MAX_EPOCH}", bad_field="producer_epoch"
            )
        producer_id, epoch = self._engine.init_producer_id(request.producer_id, request.producer_epoch)
        return pb.InitProducerIdResponse(producer_id=producer_id, producer_epoch=epoch)
