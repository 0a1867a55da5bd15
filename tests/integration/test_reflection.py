"""What the server says of itself over gRPC reflection is the fixed part of the contract."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.integration.contract_table import MESSAGES, METHODS
from tests.integration.server_process import ServerProcess

#: Fields that were added to messages of the fixed part are numbered from here.
OURS = 100


@pytest.fixture(scope="module")
def pool(shared_server: ServerProcess) -> Iterator[DescriptorPool]:
    with grpc.insecure_channel(shared_server.address) as channel:
        yield DescriptorPool(ProtoReflectionDescriptorDatabase(channel))


@pytest.fixture(scope="module")
def service(pool: DescriptorPool) -> ServiceDescriptor:
    return pool.FindServiceByName("takhin.v1.TakhinService")


def type_of(field: FieldDescriptor) -> str:
    """The type in the words of the table."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        return f"map<{type_of(entry['key'])},{type_of(entry['value'])}>"
    name = field.message_type.name if field.message_type is not None else TYPE_NAMES[field.type]
    if field.is_repeated:
        return f"{name}[]"
    return f"{name}?" if field.message_type is None and field.has_presence else name


TYPE_NAMES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_the_contract_is_there_with_its_types(method: str, service: ServiceDescriptor) -> None:
    found = service.methods_by_name[method]
    assert METHODS[method] == (
        found.input_type.name,
        found.output_type.name,
        found.client_streaming,
        found.server_streaming,
    )
    assert found.input_type.file.package == found.output_type.file.package == "takhin.v1"


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_contract_has_exactly_its_fields(message: str, pool: DescriptorPool) -> None:
    found = pool.FindMessageTypeByName(f"takhin.v1.{message}")
    fields = [(field.number, field.name, type_of(field)) for field in found.fields if field.number < OURS]
    assert sorted(fields) == MESSAGES[message]


def test_the_services_are_ours_health_and_reflection(shared_server: ServerProcess) -> None:
    with grpc.insecure_channel(shared_server.address) as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert {"takhin.v1.TakhinService", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= services
