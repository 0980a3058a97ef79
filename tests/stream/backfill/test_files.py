"""Files, columns and sorted runs: what is read, what is refused, and in which order rows come."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pa = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")

import pyarrow.feather as feather  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from state.feature import Feature  # noqa: E402
from stream.backfill.columns import Source, check_names, check_schema, columns_of, parse_names  # noqa: E402
from stream.backfill.files import find_files, identify, read_batches, read_schema  # noqa: E402
from stream.backfill.runs import RunWriter, find_runs, merge  # noqa: E402
from stream.errors import BackfillError  # noqa: E402

SOURCES: tuple[Source, ...] = ("behaviors", "impressions")
FEATURES = (
    Feature("price", "item", "number"),
    Feature("brand", "item", "category"),
    Feature("tags", "item", "categories", 3),
    Feature("dwell", "behavior", "number"),
    Feature("tier", "user", "category"),
)


@pytest.mark.parametrize(
    ("kind", "values", "unit", "expected"),
    [
        (pa.int64(), [1_700_000_000_123], "ms", [1_700_000_000_123]),
        (pa.uint32(), [1_700_000_000], "s", [1_700_000_000_000]),
        (pa.int64(), [1_700_000_000_123_456], "us", [1_700_000_000_123]),
        (pa.int64(), [1_700_000_000_123_456_789, None], "ns", [1_700_000_000_123, None]),
        (pa.timestamp("us", "Europe/Berlin"), [1_700_000_000_123_456], "s", [1_700_000_000_123]),
        (pa.timestamp("s"), [1_700_000_000], "ms", [1_700_000_000_000]),
    ],
)
def test_times_of_every_kind_are_milliseconds(kind: Any, values: list[int], unit: Any, expected: list[int]) -> None:
    [column] = [each for each in columns_of("behaviors", (), {}) if each.field == "ts"]
    assert column.accepts(kind)
    assert column.convert(pa.array(values, kind), unit).to_pylist() == expected


@pytest.mark.parametrize(
    ("source", "field", "kind", "values", "expected"),
    [
        ("behaviors", "user", pa.int64(), [7, None], ["7", None]),
        ("behaviors", "user", pa.dictionary(pa.int8(), pa.string()), ["a", "b"], ["a", "b"]),
        ("behaviors", "item", pa.large_string(), ["a"], ["a"]),
        ("behaviors", "category", pa.null(), [None], [None]),
        ("behaviors", "price", pa.float32(), [1.5, None], [1.5, None]),
        ("behaviors", "tags", pa.list_(pa.int32()), [[1, 2], None], [["1", "2"], None]),
        ("impressions", "labels", pa.list_(pa.bool_()), [[True, False]], [[1.0, 0.0]]),
        ("impressions", "items", pa.list_(pa.int64(), 2), [[1, 2]], [["1", "2"]]),
        ("impressions", "tags", pa.list_(pa.list_(pa.string())), [[["x"], None]], [[["x"], None]]),
        ("impressions", "tier", pa.string(), ["gold"], ["gold"]),
    ],
)
def test_columns_of_related_types_become_one_form(
    source: Source, field: str, kind: Any, values: list[Any], expected: list[Any]
) -> None:
    [column] = [each for each in columns_of(source, FEATURES, {}) if each.field == field]
    assert column.accepts(kind)
    found = column.convert(pa.array(values, kind), "ms")
    assert found.type == column.stored
    assert found.to_pylist() == expected


@pytest.mark.parametrize(
    ("source", "table", "says"),
    [
        (
            "behaviors",
            {"user": ["u"], "sku": ["i"], "ts": [1]},
            r"no column 'item' \(a string or a whole number\).*has user, sku, ts.*--columns behaviors.item=NAME",
        ),
        (
            "behaviors",
            {"user": [1.5], "item": ["i"], "ts": [1]},
            "column 'user' is double, and must be a string or a whole",
        ),
        (
            "behaviors",
            {"user": ["u"], "item": ["i"], "ts": [1.5]},
            "column 'ts' is double, and must be a timestamp, or a",
        ),
        (
            "behaviors",
            {"user": ["u"], "item": ["i"], "ts": [1], "price": ["x"]},
            "column 'price' is string, and must be a number",
        ),
        (
            "behaviors",
            {"user": ["u"], "item": ["i"], "ts": [1], "tags": ["x"]},
            "'tags' is string, and must be a list of a string",
        ),
        (
            "impressions",
            {"user": ["u"], "ts": [1], "items": ["a"], "labels": [[1]]},
            "'items' is string, and must be a list of a",
        ),
    ],
)
def test_a_column_that_is_missing_or_of_another_type_is_named_with_its_file(
    tmp_path: Path, source: Source, table: dict[str, list[Any]], says: str
) -> None:
    path = tmp_path / "part-0.parquet"
    pq.write_table(pa.table(table), path)
    with pytest.raises(BackfillError, match=f"{path}.*{says}"):
        check_schema(path, read_schema(path), columns_of(source, FEATURES, {}))


def test_names_are_mapped_for_both_or_for_one_source() -> None:
    names = parse_names("user=uid,impressions.ts=when,item=sku")
    of = {
        (each.source, each.field): (each.name, each.required)
        for source in SOURCES
        for each in columns_of(source, (), names)
    }
    assert of["behaviors", "user"] == of["impressions", "user"] == ("uid", True)
    assert of["behaviors", "ts"] == ("ts", True)
    assert of["impressions", "ts"] == ("when", True)
    assert of["behaviors", "item"] == ("sku", True)
    assert of["behaviors", "category"] == ("category", False)
    columns = columns_of("behaviors", (), names)
    with pytest.raises(
        BackfillError, match=r"there is no 'impressions.ts'; there are user, item, ts, category, action"
    ):
        check_names(names, columns)
    with pytest.raises(BackfillError, match="write it as user=uid,item=sku"):
        parse_names("user")


def test_a_feature_that_is_called_as_a_field_is_refused() -> None:
    feature = (Feature("labels", "item", "number"),)
    assert [each.name for each in columns_of("behaviors", feature, {}) if each.base == "number"] == ["labels"]
    with pytest.raises(BackfillError, match="'labels', and rows of impressions have a field of this name"):
        columns_of("impressions", feature, {})


def test_folders_are_read_in_the_order_of_names_and_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    table = pa.table({"user": ["u", "v"], "item": ["i", "j"], "ts": [1, 2]})
    (tmp_path / "b").mkdir()
    (tmp_path / "_temporary").mkdir()
    pq.write_table(table, tmp_path / "b" / "part-0.parquet")
    feather.write_feather(table, tmp_path / "a.feather")
    pq.write_table(table, tmp_path / "_temporary" / "half.parquet")
    (tmp_path / "_SUCCESS").write_text("")
    found = find_files([tmp_path])
    assert [path.name for path in found] == ["a.feather", "part-0.parquet"]
    for path in found:
        assert read_schema(path).names == ["user", "item", "ts"]
        assert identify("behaviors", path).rows == 2
        [batch] = read_batches(path, ["ts", "user"], 10)
        assert batch.to_pydict() == {"ts": [1, 2], "user": ["u", "v"]}
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no")
    with pytest.raises(BackfillError, match=f"{broken} cannot be read: "):
        read_schema(broken)
    for paths, says in (
        ([tmp_path / "none"], "none is not there"),
        ([tmp_path / "_SUCCESS"], "must end in one of .parquet"),
        ([tmp_path / "_temporary", found[0], found[0]], "a.feather is named twice"),
    ):
        with pytest.raises(BackfillError, match=says):
            find_files(paths)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BackfillError, match="empty holds no files that end in"):
        find_files([tmp_path / "empty"])


def test_a_file_of_other_rows_has_another_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    seen = set()
    for item in ("i", "j"):
        pq.write_table(pa.table({"user": ["u"] * 10_000, "item": [item] * 10_000, "ts": range(10_000)}), path)
        seen.add(identify("behaviors", path).fingerprint)
    assert len(seen) == 2


ROWS = st.lists(st.tuples(st.sampled_from(["behaviors", "impressions"]), st.none() | st.integers(-5, 12)), max_size=120)


@settings(max_examples=40)
@given(rows=ROWS, run_rows=st.integers(1, 30), batch=st.integers(1, 7))
def test_rows_come_in_the_order_of_time_then_of_the_files_in_slices_that_never_change(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Source, int | None]], run_rows: int, batch: int
) -> None:
    directory = tmp_path_factory.mktemp("runs")
    schema = pa.schema([("ts", pa.int64()), ("_file", pa.int32()), ("_row", pa.int64())])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("stream.backfill.runs._BATCH_ROWS", batch)
        number = 0
        for source in SOURCES:
            writer = RunWriter(directory, source, schema, first=number, most_bytes=run_rows * 20)
            for row, ts in enumerate(ts for of, ts in rows if of == source):
                writer.add(
                    pa.RecordBatch.from_arrays(
                        [pa.array([ts], pa.int64()), pa.array([0], pa.int32()), pa.array([row])], schema=schema
                    )
                )
            writer.flush()
            number = writer.number
    slices = [{source: table.to_pylist() for source, table in each.items()} for each in merge(find_runs(directory))]
    for source in SOURCES:
        found = [row for each in slices for row in each.get(source, [])]
        times = [ts for of, ts in rows if of == source]
        expected = sorted(range(len(times)), key=lambda row: (times[row] is None, times[row] or 0))  # stable
        assert [row["_row"] for row in found] == expected
    # No slice begins before the one before it has ended, whatever the source.
    ends = -100
    for each in slices:
        moments = [100 if row["ts"] is None else row["ts"] for table in each.values() for row in table]
        assert min(moments) >= ends
        ends = max(moments)
    again = [{source: table.to_pylist() for source, table in each.items()} for each in merge(find_runs(directory))]
    assert again == slices
