"""Server reflection, under both of its names: newer clients ask for v1 first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from .. import errors
from .calls import fail, in_pool
from .pools import CallPool

#: The messages of the two are the same on the wire.
SERVICES = (reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection")
METHOD = "ServerReflectionInfo"


class _Pool:
    """The default pool, which also finds the file of a method: ghz asks for methods by name."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """Raises ``KeyError``."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service = self._pool.FindServiceByName(symbol.rpartition(".")[0])
            return service.methods_by_name[symbol.rpartition(".")[2]].containing_service.file


def reflection_handler(service_names: tuple[str, ...], pool: CallPool) -> grpc.RpcMethodHandler[Any, Any]:
    """Describes the services by name. Its threads are held for as long as clients keep a call open."""
    servicer: Any = reflection.ReflectionServicer((*service_names, reflection.SERVICE_NAME), pool=_Pool())

    def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            for response in servicer.ServerReflectionInfo(_parsed(requests), context):
                yield response.SerializeToString()
        except DecodeError:
            fail(context, errors.MalformedMessage("these bytes are not a ServerReflectionRequest"))

    return grpc.stream_stream_rpc_method_handler(in_pool(call, pool))


def _parsed(requests: Iterator[bytes]) -> Iterator[reflection_pb2.ServerReflectionRequest]:
    for data in requests:
        yield reflection_pb2.ServerReflectionRequest.FromString(data)
