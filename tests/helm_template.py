"""Renders the part of Helm's templates that our chart uses, where there is no helm: enough to see what it makes.

Actions are `define`, `if`, `with` and `range` over numbers, each to its `end`, and pipelines of the functions in
`_FUNCTIONS`; `{{-` and `-}}` trim as in Go's text/template. Anything else is an error, so a chart that goes
beyond is noticed.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_ACTION = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[()|]|[^\s()|"]+')


@dataclass
class _Block:
    """Text and actions up to an `end`; `what` is the action that opened it."""

    what: str = ""
    parts: list["str | _Block"] = field(default_factory=list)


def render(chart: Path, values: dict[str, Any] | None = None, *, release: str = "shop") -> list[dict[str, Any]]:
    """Return the objects that the chart makes.

    Args:
        chart: its folder.
        values: as in a file given to `helm template --values`: maps are merged into the chart's own.
        release: its name.
    """
    meta = yaml.safe_load((chart / "Chart.yaml").read_text())
    context = {
        "Values": _merged(yaml.safe_load((chart / "values.yaml").read_text()), values or {}),
        "Chart": {name[0].upper() + name[1:]: value for name, value in meta.items()},
        "Release": {"Name": release, "Service": "Helm", "Namespace": "default"},
        "Files": {"Get": lambda name: (chart / name).read_text()},
    }
    files = sorted((chart / "templates").iterdir())
    blocks = {file: _parse(file.read_text()) for file in files}
    renderer = _Renderer(context)
    for block in blocks.values():
        renderer.define(block)
    made: list[dict[str, Any]] = []
    for file, block in blocks.items():
        text = renderer.text(block, context)
        try:
            made += [each for each in yaml.safe_load_all(text) if each is not None]
        except yaml.YAMLError as error:
            raise AssertionError(f"{file.name}: {error}\n{text}") from None
    return made


def _merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    both = {name for name in ours.keys() & theirs.keys() if isinstance(ours[name], dict)}
    return {**ours, **theirs, **{name: _merged(ours[name], theirs[name]) for name in both}}


def _parse(text: str) -> _Block:
    stack, end, trim = [_Block()], 0, False
    for found in _ACTION.finditer(text):
        before, what, after = found.groups()
        piece = text[end : found.start()]
        piece = piece.lstrip() if trim else piece
        stack[-1].parts.append(piece.rstrip() if before else piece)
        if what == "end":
            block = stack.pop()
            stack[-1].parts.append(block)
        elif what.split()[0] in ("if", "with", "range", "define"):
            stack.append(_Block(what))
        else:
            stack[-1].parts.append(_Block(what))
        end, trim = found.end(), bool(after)
    stack[-1].parts.append(text[end:].lstrip() if trim else text[end:])
    [root] = stack
    return root


class _Renderer:
    def __init__(self, root: dict[str, Any]) -> None:
        self._named: dict[str, _Block] = {}
        self._variables: dict[str, Any] = {"$": root}

    def define(self, block: _Block) -> None:
        for part in block.parts:
            if isinstance(part, _Block) and part.what.startswith("define"):
                self._named[json.loads(part.what.split(maxsplit=1)[1])] = part

    def text(self, block: _Block, dot: Any) -> str:
        return "".join(part if isinstance(part, str) else self._action(part, dot) for part in block.parts)

    def _action(self, block: _Block, dot: Any) -> str:
        word, _, rest = block.what.partition(" ")
        if word == "define":
            return ""
        if word == "range":
            variable, _, expression = rest.partition(" := ")
            return "".join(self._with(variable, each, block, dot) for each in self._evaluate(expression, dot))
        if word in ("if", "with"):
            value = self._evaluate(rest, dot)
            return self.text(block, value if word == "with" else dot) if value else ""
        value = self._evaluate(block.what, dot)
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _with(self, variable: str, value: Any, block: _Block, dot: Any) -> str:
        self._variables[variable] = value
        return self.text(block, dot)

    def _evaluate(self, expression: str, dot: Any) -> Any:
        tokens = iter(_TOKEN.findall(expression))
        return self._pipeline(tokens, dot)

    def _pipeline(self, tokens: Iterator[str], dot: Any) -> Any:
        piped: list[Any] = []
        words: list[Any] = []
        for token in tokens:
            if token == ")":
                break
            if token == "|":
                piped, words = [self._call(words, piped)], []
            else:
                words.append(self._pipeline(tokens, dot) if token == "(" else self._operand(token, dot))
        return self._call(words, piped)

    def _operand(self, token: str, dot: Any) -> Any:
        if token.startswith('"'):
            return json.loads(token)
        if token.lstrip("-").isdigit():
            return int(token)
        variable, *names = token.split(".")
        if variable and variable not in self._variables:
            return _Function(token)
        value = self._variables[variable] if variable else dot
        for name in names:
            value = value if not name else value.get(name)
        return value

    def _call(self, words: list[Any], piped: list[Any]) -> Any:
        first, *rest = words
        if not isinstance(first, _Function):
            return first(*rest) if callable(first) else first
        if first.name == "include":
            return self.text(self._named[rest[0]], rest[1])
        return _FUNCTIONS[first.name](*rest, *piped)


@dataclass(frozen=True)
class _Function:
    name: str


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "default": lambda instead, given: given or instead,
    "index": lambda value, key: value[key],
    "nindent": lambda width, text: "\n" + "\n".join(" " * width + line if line else "" for line in text.splitlines()),
    "int": int,
    "not": lambda value: not value,
    "printf": lambda form, *values: form % values,
    "quote": lambda value: json.dumps(str(value), ensure_ascii=False),
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "toJson": lambda value: json.dumps(value, separators=(",", ":"), sort_keys=True),
    "until": range,
    "toYaml": lambda value: yaml.safe_dump(value, sort_keys=True).rstrip("\n"),
}
