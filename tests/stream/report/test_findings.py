"""Tables of findings, as terminals of any width show them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from stream.report.findings import cell_text, to_tables

NAMES = st.lists(st.text("abc ±,", min_size=1, max_size=16).map(str.strip).filter(bool), unique=True, max_size=16)


def lines(rows: list[dict[str, object]], width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as captured:
        for table in to_tables(rows, width):
            console.print(table)
    return captured.get().splitlines()


@pytest.mark.long
@given(NAMES, st.integers(40, 200), st.data())
def test_no_cell_is_cut_whatever_the_width(names: list[str], width: int, data: st.DataObject) -> None:
    values = st.one_of(st.none(), st.integers(0, 10**9), st.floats(-1e9, 1e9))
    rows: list[dict[str, object]] = [{name: data.draw(values) for name in names} for _ in range(3)]
    shown = lines(rows, width)
    assert all(len(line) <= width for line in shown)
    assert "…" not in "".join(shown)
    if names:
        for row in rows:
            text = "\n".join(shown)
            assert all(cell_text(value) in text for value in row.values())


def test_a_wide_table_comes_in_pieces_each_with_the_first_column() -> None:
    row = {"ranker": "sam", **{f"column {letter}": 0.12345 for letter in "abcdefghij"}}
    assert len(to_tables([row], 200)) == 1
    pieces = to_tables([row], 40)
    assert len(pieces) > 1
    assert all(piece.columns[0].header == "ranker" for piece in pieces)
    assert [column.header for piece in pieces for column in piece.columns[1:]] == list(row)[1:]


@pytest.mark.parametrize("width", [40, 80])
def test_no_rows_are_an_empty_table(width: int) -> None:
    assert len(to_tables([], width)) == 1
