"""The page of a report: its content as plain values, and its rendering as one self-contained HTML file."""

from base64 import b64encode
from dataclasses import dataclass, field

from stream.report.schema import Check

_MARKS = {"fine": "✓", "note": "!", "fatal": "✕", "unknown": "?"}


@dataclass(frozen=True, slots=True)
class Tile:
    """A headline number."""

    value: str
    label: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table; `small` follows the text in small print."""

    text: str
    small: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """An arm's row of a table."""

    name: str
    colour: str
    cells: list[Cell]


@dataclass(frozen=True, slots=True)
class ArmTable:
    """Arms as rows under named columns; the first column is the arm's."""

    columns: list[str]
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture, and what it shows in words."""

    png: bytes
    alt: str

    @property
    def base64(self) -> str:
        """The picture as text."""
        return b64encode(self.png).decode()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page under a heading of its own; from top to bottom as the fields stand."""

    heading: str
    lead: str = ""
    table: ArmTable | None = None
    lines: list[str] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Page:
    """Everything on the page, from top to bottom."""

    title: str
    headline: str
    lead: str
    tiles: list[Tile]
    sections: list[Section]
    notes: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)


def render_page(page: Page) -> str:
    """Return the page as HTML that needs no other file and no host; every text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("stream.report.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2").render(page=page, marks=_MARKS)
