"""Compiles the little of Protobuf's language that samstream's schemas are written in."""

import re

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

_TYPES = {"string": "TYPE_STRING", "int64": "TYPE_INT64", "bool": "TYPE_BOOL"}
_MESSAGE = re.compile(r"^message (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^ {2}(?:(optional|repeated) )?([\w.]+) (\w+) = (\d+);$", re.MULTILINE)


def compile_proto(text: str, name: str) -> FileDescriptorProto:
    """Return the file as `protoc` has it; test_input_schemas.py compares the two."""
    file = FileDescriptorProto(name=name, syntax="proto3")
    file.package = re.findall(r"^package (\w+);$", text, re.MULTILINE)[0]
    file.dependency.extend(re.findall(r'^import "([^"]+)";$', text, re.MULTILINE))
    for title, body in _MESSAGE.findall(text):
        message = file.message_type.add(name=title)
        for label, kind, field_name, number in _FIELD.findall(body):
            field = message.field.add(name=field_name, number=int(number), json_name=_json_name(field_name))
            repeated = label == "repeated"
            field.label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
            if kind in _TYPES:
                field.type = FieldDescriptorProto.Type.Value(_TYPES[kind])
            else:
                field.type = FieldDescriptorProto.TYPE_MESSAGE
                field.type_name = f".{kind}" if "." in kind else f".{file.package}.{kind}"
            if label == "optional":
                field.proto3_optional = True
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field_name}")
    return file


def _json_name(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
