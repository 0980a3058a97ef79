"""Which files are written, wholly or in part, and what they should hold."""

from collections.abc import Iterator
from pathlib import Path

from docs.generator.markdown import fill
from docs.generator.measured import ROOT, load
from docs.generator.metrics_page import metrics_page
from docs.generator.schemas_page import schemas_page
from docs.generator.settings_page import settings_page
from docs.generator.tables import render

COMMAND = "python -m docs.generator"


def generated(root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """Yield each generated file with what it should hold."""
    yield root / "docs" / "settings.md", settings_page()
    yield root / "docs" / "metrics.md", metrics_page()
    yield root / "docs" / "schemas.md", schemas_page()
    measured = load(root / "docs" / "measured.json")
    for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        text = page.read_text()
        if "<!-- measured:" in text:
            yield page, fill(text, lambda name: render(measured, name))


def stale(root: Path = ROOT) -> list[Path]:
    """Return the generated files that do not hold what they should."""
    return [path for path, text in generated(root) if not path.exists() or path.read_text() != text]


def write(root: Path = ROOT) -> list[Path]:
    """Write all of them; returns those that changed."""
    changed = stale(root)
    for path, text in generated(root):
        if path in changed:
            path.write_text(text)
    return changed
