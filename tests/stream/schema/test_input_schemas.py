"""The schemas in Avro and Protobuf have the fields of the structs, and are what their compilers take."""

import json
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from stream.cli.main import main
from stream.schema.input_schemas import avro_schemas, input_events, protobuf_schemas
from stream.schema.topics import Topics

TOPICS = Topics("shop-")


def test_every_field_is_there_and_required_as_in_the_struct() -> None:
    schemas = avro_schemas(TOPICS)
    for topic, kinds in input_events(TOPICS).items():
        records = schemas[topic] if isinstance(schemas[topic], list) else [schemas[topic]]
        assert [record["name"] for record in records] == [kind.__name__ for kind in kinds]
        for record, kind in zip(records, kinds, strict=True):
            fields = {field["name"]: "default" not in field for field in record["fields"]}
            assert fields == {field.name: field.required for field in msgspec.structs.fields(kind)}


def test_fastavro_takes_the_schemas() -> None:
    fastavro = pytest.importorskip("fastavro", reason="the extra registry is not installed: pip install '.[registry]'")
    for schema in avro_schemas(TOPICS).values():
        fastavro.parse_schema(schema)


def test_protoc_takes_the_files_and_reads_them_as_the_tests_do(tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf", reason="the extra registry is not installed: pip install '.[registry]'")
    if (protoc := shutil.which("protoc")) is None:
        pytest.skip("protoc is not installed: apt-get install protobuf-compiler")
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    from tests.stream.registry.proto_text import compile_proto

    for topic, text in protobuf_schemas(TOPICS).items():
        (tmp_path / f"{topic}.proto").write_text(text)
        out = tmp_path / "out"
        line = [protoc, f"--proto_path={tmp_path}", f"--descriptor_set_out={out}", f"{topic}.proto"]
        subprocess.run(line, check=True, timeout=60)
        [compiled] = FileDescriptorSet.FromString(out.read_bytes()).file
        assert compiled == compile_proto(text, f"{topic}.proto")


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    prefix = ("--set", "topics.prefix=shop-")
    assert main(["topics", "schemas", "--format", "avro", *prefix]) == 0
    assert json.loads(capsys.readouterr().out) == avro_schemas(TOPICS)
    assert main(["topics", "schemas", "--format", "avro", "--topic", "shop-clicks", *prefix]) == 0
    assert json.loads(capsys.readouterr().out) == avro_schemas(TOPICS)["shop-clicks"]
    assert main(["topics", "schemas", "--format", "protobuf", "--topic", "shop-impressions", *prefix]) == 0
    assert capsys.readouterr().out.strip() == protobuf_schemas(TOPICS)["shop-impressions"].strip()
    assert main(["topics", "schemas", "--format", "protobuf", *prefix]) == 0
    assert capsys.readouterr().out.count('syntax = "proto3";') == 3
    assert main(["topics", "schemas", "--format", "avro", "--topic", "clicks", *prefix]) == 1
    assert "shop-clicks" in capsys.readouterr().err
