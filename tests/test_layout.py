"""The order of the folders: each imports only from folders below it, and some know no Kafka client."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("stream", "model", "state")

LAYERS = (
    ("stream.cli",),
    ("stream.bench", "stream.lab"),
    ("stream.backfill", "stream.replay", "stream.simulation", "stream.validation"),
    ("stream.worker", "stream.trainer", "stream.monitor", "stream.gateway", "stream.bandit", "stream.report"),
    ("stream.task", "stream.experiment", "stream.registry", "stream.local", "stream.client"),
    ("stream.kafka", "stream.datasets", "stream.settings"),
    ("model", "stream.schema", "stream.runtime"),
    ("state", "stream.errors"),
)
"""From top to bottom; those in one layer do not import one another."""

KAFKA_CLIENTS = ("confluent_kafka", "aiokafka", "faust")
NO_KAFKA_CLIENT = ("stream.schema", "stream.task", "stream.experiment", "stream.datasets", "model", "state")
ONLY = {"model": ("state",), "state": ()}
"""Folders that may import these and no others, whatever lies below them."""
ROOT_FOLDER = "stream"
"""`stream/__init__.py` itself: it belongs to no layer, and imports nothing."""

_RANK = {folder: rank for rank, layer in enumerate(LAYERS) for folder in layer}


class Import(NamedTuple):
    """One imported module: where it is imported, and what."""

    file: Path
    line: int
    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {folder_of(self.source)} → {folder_of(self.target)} ({self.target})"


def python_files(root: Path) -> list[Path]:
    """Return the files of the packages, relative to `root`."""
    return [file.relative_to(root) for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]


def module_name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def folder_of(module: str) -> str:
    """Return the folder of a module, or the module itself where it lies directly in `stream/`."""
    top, *rest = module.split(".")
    return top if top in ("model", "state") or not rest else f"{top}.{rest[0]}"


def imports(root: Path = ROOT) -> list[Import]:
    """Return every import in the packages below `root`: at the top, inside functions and under TYPE_CHECKING."""
    files = python_files(root)
    modules = {module_name(file) for file in files}
    return [
        Import(file, node.lineno, module_name(file), target)
        for file in files
        for node in ast.walk(ast.parse((root / file).read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for target in _targets(node, file, modules)
    ]


def _targets(node: ast.Import | ast.ImportFrom, file: Path, modules: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    else:
        package = module_name(file.with_name("__init__.py")).split(".")
        base = [*package[: len(package) - node.level + 1], *([node.module] if node.module else [])]
        source = ".".join(base) if node.level else node.module or ""
        for alias in node.names:
            inner = f"{source}.{alias.name}"
            yield inner if inner in modules else source


def arrows(found: list[Import]) -> set[tuple[str, str]]:
    """Return which folder imports from which."""
    return {
        (folder_of(each.source), folder_of(each.target))
        for each in found
        if each.target.split(".")[0] in PACKAGES and folder_of(each.source) != folder_of(each.target)
    }


def breaks_order(each: Import) -> bool:
    source, target = folder_of(each.source), folder_of(each.target)
    if each.target.split(".")[0] not in PACKAGES or source == target:
        return False
    return _RANK[target] <= _RANK[source] or target not in ONLY.get(source, (target,))


@pytest.mark.long
def test_every_folder_has_a_layer() -> None:
    folders = {folder_of(module_name(file)) for file in python_files(ROOT)}
    assert folders - {ROOT_FOLDER} == _RANK.keys()
    assert not [str(each) for each in imports() if each.source == ROOT_FOLDER]


@pytest.mark.long
def test_folders_import_only_from_below() -> None:
    found = imports()
    assert len(arrows(found)) > 50, "the imports were not read"
    assert not [str(each) for each in found if breaks_order(each)]


@pytest.mark.long
def test_pure_folders_know_no_kafka_client() -> None:
    found = imports()
    assert any(each.target.split(".")[0] in KAFKA_CLIENTS for each in found)
    assert not [
        str(each)
        for each in found
        if folder_of(each.source) in NO_KAFKA_CLIENT and each.target.split(".")[0] in KAFKA_CLIENTS
    ]


def test_a_broken_order_is_named_with_file_line_and_arrow(tmp_path: Path) -> None:
    for package in ("stream/schema", "stream/kafka", "model", "state"):
        (tmp_path / package).mkdir(parents=True, exist_ok=True)
    (tmp_path / "stream/kafka/clients.py").write_text("")
    (tmp_path / "stream/schema/events.py").write_text("def read():\n    from stream.kafka import clients\n")
    (tmp_path / "model/spec.py").write_text("import stream.errors\n")
    (tmp_path / "stream/errors.py").write_text("")
    assert [str(each) for each in imports(tmp_path) if breaks_order(each)] == [
        "stream/schema/events.py:2: stream.schema → stream.kafka (stream.kafka.clients)",
        "model/spec.py:1: model → stream.errors (stream.errors)",
    ]
