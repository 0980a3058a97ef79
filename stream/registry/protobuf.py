"""Protobuf messages as plain values, read by the schema that they were written with."""

import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_SHIPPED = re.compile(r"google/(?:protobuf|type)/[a-z_]+\.proto")
"""Files that come with Protobuf, or with the package googleapis-common-protos."""
_WRAPPER = re.compile(r"google\.protobuf\.(?:Bool|Bytes|Double|Float|Int32|Int64|String|UInt32|UInt64)Value")
_JSON_LIKE = {"google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"}
_EXACT = 2**53
"""Below it, a whole number and the double of the same value are the same."""


class ProtobufReader:
    """Reads the messages of one file.

    A field that was not set is missing in what is read, and so is one without presence that has its default.

    Args:
        file: the writer's, a serialized `FileDescriptorProto`.
        references: the files that it imports, by the name under which it does, and those that these import.

    Raises:
        Exception: of protobuf, when it is none, or imports what is not there.
    """

    def __init__(self, file: bytes, references: Mapping[str, bytes]) -> None:
        pool = DescriptorPool()
        parsed = FileDescriptorProto.FromString(file)
        imported = {name: FileDescriptorProto.FromString(content) for name, content in references.items()}
        parsed.name = parsed.name if parsed.name and parsed.name not in imported else "schema.proto"
        _add(pool, parsed, imported, set())
        self._messages = list(pool.FindFileByName(parsed.name).message_types_by_name.values())
        self._classes: dict[tuple[int, ...], type[Message]] = {}

    def __call__(self, payload: bytes) -> dict[str, Any]:
        """Return the fields that were set, by name.

        Raises:
            Exception: of some kind, when the bytes are no message of the file.
        """
        path, start = _message_path(payload)
        if path not in self._classes:
            self._classes[path] = GetMessageClass(self._message(path))
        return _fields(self._classes[path].FromString(payload[start:]))

    def _message(self, path: tuple[int, ...]) -> Descriptor:
        found, messages = None, self._messages
        for place in path:
            if not 0 <= place < len(messages):
                raise ValueError(f"the schema has no message at {list(path)}")
            found = messages[place]
            messages = list(found.nested_types)
        if found is None:
            raise ValueError("no message is named")
        return found


def _add(
    pool: DescriptorPool, file: FileDescriptorProto, imported: Mapping[str, FileDescriptorProto], added: set[str]
) -> None:
    """Put a file into a pool, what it imports first."""
    if file.name in added:
        return
    added.add(file.name)
    for name in file.dependency:
        if name in imported:
            imported[name].name = name
            _add(pool, imported[name], imported, added)
        elif _SHIPPED.fullmatch(name):
            shipped = import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2").DESCRIPTOR
            known = FileDescriptorProto()
            shipped.CopyToProto(known)
            _add(pool, known, imported, added)
        else:
            raise ValueError(f"it imports {name}, which is not among its references")
    pool.Add(file)


def _message_path(payload: bytes) -> tuple[tuple[int, ...], int]:
    """Return which message of its file a value is, and where it begins.

    Confluent's format: how many numbers, then each: a place among the file's messages, then among those nested in it.
    A single 0 stands for the first message of the file.
    """
    count, start = _varint(payload, 0)
    if count == 0:
        return (0,), start
    if not 0 < count <= 100:
        raise ValueError(f"a message at {count} numbers")
    path = []
    for _ in range(count):
        place, start = _varint(payload, start)
        path.append(place)
    return tuple(path), start


def _varint(payload: bytes, start: int) -> tuple[int, int]:
    """Return a ZigZag-encoded number, and where the next one begins."""
    raw = 0
    for place, byte in enumerate(payload[start : start + 5]):
        raw |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return (raw >> 1) ^ -(raw & 1), start + place + 1
    raise ValueError("the message's place in its file is cut off")


def _fields(message: Message) -> dict[str, Any]:
    return {field.name: _value(field, value) for field, value in message.ListFields()}


def _value(field: FieldDescriptor, value: Any) -> Any:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        of = kind.fields_by_name["value"]
        return {str(key): _single(of, value[key]) for key in value}
    if isinstance(value, Message | str | bytes) or not isinstance(value, Iterable):
        return _single(field, value)
    return [_single(field, each) for each in value]


def _single(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return value if named is None else named.name
    if field.message_type is None:
        return value
    name = field.message_type.full_name
    if name == "google.protobuf.Timestamp":
        return value.seconds * 1000 + value.nanos // 1_000_000
    if name in _JSON_LIKE:
        return _whole(MessageToDict(value))
    return value.value if _WRAPPER.fullmatch(name) else _fields(value)


def _whole(value: Any) -> Any:
    """Return JSON with whole numbers where JSON-like messages have doubles, which is all the numbers that they know."""
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and abs(value) < _EXACT and value.is_integer() else value
