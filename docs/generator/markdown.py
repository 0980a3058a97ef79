"""Markdown tables, figures as people read them, and parts of a file between markers."""

import re
from collections.abc import Callable, Iterable, Sequence

from stream.experiment.wording import signed_percent

_PART = re.compile(r"<!-- measured:(?P<name>[\w-]+) -->\n.*?<!-- /measured -->", re.DOTALL)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Return a Markdown table.

    >>> print(table(["a", "b"], [["1", "x | y"]]))
    | a | b |
    |---|---|
    | 1 | x \| y |
    """
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join("|---" * len(line) + "|" if line[0] == "---" else "| " + " | ".join(line) + " |" for line in lines)


def percent(value: float | None, *, digits: int = 1, signed: bool = False) -> str:
    """Return a share as a percentage.

    >>> percent(0.304, signed=True), percent(-0.02), percent(None)
    ('+30.4%', '−2.0%', '–')
    """
    if value is None:
        return "–"
    return signed_percent(value, digits) if signed else f"{100 * value:.{digits}f}%".replace("-", "−")


def fill(text: str, render: Callable[[str], str]) -> str:
    """Return a text in which each part between `<!-- measured:NAME -->` and `<!-- /measured -->` is `render(NAME)`."""

    def part(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- measured:{name} -->\n\n{render(name)}\n\n<!-- /measured -->"

    return _PART.sub(part, text)


def parts(text: str) -> list[str]:
    """Return the names of the parts between markers, in order."""
    return [found["name"] for found in _PART.finditer(text)]
