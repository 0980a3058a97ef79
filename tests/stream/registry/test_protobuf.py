"""Protobuf files of one's own: other messages, well-known types, maps, enums, imports."""

import base64
from typing import Any

import pytest

pytest.importorskip("google.protobuf", reason="the extra registry is not installed: pip install '.[registry]'")

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import DESCRIPTOR as STRUCT
from google.protobuf.timestamp_pb2 import DESCRIPTOR as TIMESTAMP
from google.protobuf.wrappers_pb2 import DESCRIPTOR as WRAPPERS

from stream.registry.protobuf import ProtobufReader

T = FieldDescriptorProto


def own_file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="own.proto", package="own", syntax="proto3")
    file.dependency.extend(["google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto"])
    file.dependency.extend(["google/protobuf/struct.proto", "thing.proto"])
    file.message_type.add(name="First").field.add(name="a", number=1, type=T.TYPE_STRING, label=T.LABEL_OPTIONAL)
    outer = file.message_type.add(name="Outer")
    outer.nested_type.add(name="Unused")
    inner = outer.nested_type.add(name="Inner")
    kind = inner.enum_type.add(name="Kind")
    kind.value.add(name="VIEW", number=0)
    kind.value.add(name="BUY", number=1)
    entry = inner.nested_type.add(name="NumbersEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=T.TYPE_STRING, label=T.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=T.TYPE_DOUBLE, label=T.LABEL_OPTIONAL)

    def add(name: str, number: int, type_name: str = "", kind: Any = T.TYPE_MESSAGE, *, many: bool = False) -> None:
        label = T.LABEL_REPEATED if many else T.LABEL_OPTIONAL
        field = inner.field.add(name=name, number=number, type=kind, label=label)
        if type_name:
            field.type_name = type_name

    add("at", 1, ".google.protobuf.Timestamp")
    add("user", 2, ".google.protobuf.StringValue")
    add("any", 3, ".google.protobuf.Struct")
    add("kind", 4, ".own.Outer.Inner.Kind", T.TYPE_ENUM)
    add("numbers", 5, ".own.Outer.Inner.NumbersEntry", many=True)
    add("thing", 6, ".shop.Thing", many=True)
    add("big", 7, kind=T.TYPE_UINT64)
    add("raw", 8, kind=T.TYPE_BYTES)
    add("flags", 9, kind=T.TYPE_BOOL, many=True)
    return file


def thing_file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="thing.proto", package="shop", syntax="proto3")
    file.message_type.add(name="Thing").field.add(name="price", number=1, type=T.TYPE_FLOAT, label=T.LABEL_OPTIONAL)
    return file


def message_of(path: str) -> Any:
    pool = DescriptorPool()
    for shipped in (STRUCT, TIMESTAMP, WRAPPERS):
        pool.AddSerializedFile(shipped.serialized_pb)
    pool.Add(thing_file())
    pool.Add(own_file())
    return GetMessageClass(pool.FindMessageTypeByName(path))()


def reader() -> ProtobufReader:
    return ProtobufReader(own_file().SerializeToString(), {"thing.proto": thing_file().SerializeToString()})


def test_fields_become_what_json_has() -> None:
    message = message_of("own.Outer.Inner")
    message.at.seconds, message.at.nanos = 1_700_000_000, 123_999_999
    message.user.value = "ann"
    message.any.update({"whole": 5, "half": 0.5, "texts": ["a", None, 2], "deep": {"x": True}})
    message.kind = 1
    message.numbers["x"] = 1.5
    message.thing.add(price=2.5)
    message.big = 2**64 - 1
    message.raw = b"bytes"
    message.flags.extend([True, False])
    read = reader()(b"\x04\x02\x02" + message.SerializeToString())  # [1, 1], ZigZag
    assert read == {
        "at": 1_700_000_000_123,
        "user": "ann",
        "any": {"whole": 5, "half": 0.5, "texts": ["a", None, 2], "deep": {"x": True}},
        "kind": "BUY",
        "numbers": {"x": 1.5},
        "thing": [{"price": 2.5}],
        "big": 2**64 - 1,
        "raw": b"bytes",
        "flags": [True, False],
    }
    assert type(read["any"]["whole"]) is int


def test_the_first_message_of_a_file_is_named_by_a_0() -> None:
    message = message_of("own.First")
    message.a = "x"
    assert reader()(b"\0" + message.SerializeToString()) == {"a": "x"}
    assert reader()(b"\x02\0" + message.SerializeToString()) == {"a": "x"}
    assert reader()(b"\0") == {}


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x02", b"\x80", b"\x02\x08", b"\x02\x01", b"\x04\x02\x08", b"\x01", b"\xff\xff\xff\xff\x0f", b"\0\xff"],
)
def test_a_message_that_is_not_there_is_refused(payload: bytes) -> None:
    with pytest.raises(Exception, match=r"."):
        reader()(payload)


def test_an_import_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"it imports thing\.proto, which is not among its references"):
        ProtobufReader(own_file().SerializeToString(), {})
    with pytest.raises(Exception, match=r"."):
        ProtobufReader(base64.b64decode(b"bm8gcHJvdG8="), {})
