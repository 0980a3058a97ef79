"""Which columns hold what, of which type they may be, and how they become one form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from state.feature import Feature
from stream.errors import BackfillError

Source = Literal["behaviors", "impressions"]
"""What the rows of a file are."""
Unit = Literal["ms", "s", "us", "ns"]
Base = Literal["text", "time", "number"]

_PER_MS: Mapping[Unit, int] = {"us": 1_000, "ns": 1_000_000}
_EXPECTED: Mapping[Base, str] = {
    "text": "a string or a whole number",
    "time": "a timestamp, or a whole number in the unit of --ts-unit",
    "number": "a number",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column that is read.

    Attributes:
        source: of which rows.
        field: what it holds, as the event calls it.
        name: what the files call it.
        base: type of a single value.
        depth: 1 for a list of them, 2 for a list of lists.
        required: whether the files must have it.
    """

    source: Source
    field: str
    name: str
    base: Base
    depth: int = 0
    required: bool = False

    @property
    def expected(self) -> str:
        """Its type in words."""
        return "a list of " * self.depth + _EXPECTED[self.base]

    @property
    def stored(self) -> pa.DataType:
        """The type that all files are brought to: text, int64 milliseconds or float64, in as many lists."""
        found = {"text": pa.string(), "time": pa.int64(), "number": pa.float64()}[self.base]
        for _ in range(self.depth):
            found = pa.list_(found)
        return found

    def accepts(self, found: pa.DataType) -> bool:
        """Return whether a column of this type can be brought to `stored`."""
        for _ in range(self.depth):
            if not (pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)):
                return False
            found = found.value_type
        if pa.types.is_dictionary(found):
            found = found.value_type
        if pa.types.is_null(found):
            return True
        whole = pa.types.is_integer(found)
        if self.base == "text":
            return bool(whole or pa.types.is_string(found) or pa.types.is_large_string(found))
        if self.base == "time":
            return bool(whole or pa.types.is_timestamp(found))
        return bool(whole or pa.types.is_floating(found) or pa.types.is_boolean(found))

    def convert(self, values: pa.Array, unit: Unit) -> pa.Array:
        """Return values in the form of `stored`."""
        if self.base != "time":
            return values.cast(self.stored)
        if pa.types.is_timestamp(values.type):
            return values.cast(pa.timestamp("ms", values.type.tz), safe=False).cast(pa.int64())
        whole = values.cast(pa.int64(), safe=False)
        if unit == "s":
            return pc.multiply(whole, 1000)
        return pc.divide(whole, _PER_MS[unit]) if unit in _PER_MS else whole


def columns_of(source: Source, features: Sequence[Feature], names: Mapping[str, str]) -> list[Column]:
    """Return the columns that are read of behaviours, or of impressions.

    Features of an item are of the behaviour's item, or a list with one entry a candidate.

    Args:
        source: which rows.
        features: of callers, as the settings define them.
        names: field, or source and field ("impressions.user"), → what the files call it, where that differs.

    Raises:
        BackfillError: for a feature that is called as a field is.
    """
    columns = [Column(source, field, field, base, depth, required) for field, base, depth, required in _OWN[source]]
    described = ("item", "behavior") if source == "behaviors" else ("context", "user", "item")
    for feature in features:
        if feature.of in described:
            if feature.name in (column.field for column in columns):
                raise BackfillError(
                    f"[features] has {feature.name!r}, and rows of {source} have a field of this name: its column could"
                    " be either. Call the feature otherwise"
                )
            per_candidate = source == "impressions" and feature.of == "item"
            depth = int(feature.kind in ("categories", "vector")) + int(per_candidate)
            columns.append(Column(source, feature.name, feature.name, "text" if feature.embeds else "number", depth))
    return [_renamed(column, names) for column in columns]


def _renamed(column: Column, names: Mapping[str, str]) -> Column:
    """Return a column under the name that `--columns` gives it; one that is named there must be there."""
    name = names.get(f"{column.source}.{column.field}", names.get(column.field))
    return column if name is None else replace(column, name=name, required=True)


_OWN: Mapping[Source, Sequence[tuple[str, Base, int, bool]]] = {
    "behaviors": [
        ("user", "text", 0, True),
        ("item", "text", 0, True),
        ("ts", "time", 0, True),
        ("category", "text", 0, False),
        ("action", "text", 0, False),
    ],
    "impressions": [
        ("user", "text", 0, True),
        ("ts", "time", 0, True),
        ("items", "text", 1, True),
        ("labels", "number", 1, True),
        ("categories", "text", 1, False),
        ("request_id", "text", 0, False),
    ],
}
"""Field, type of a single value, depth of lists, and whether it must be there."""


def parse_names(text: str) -> dict[str, str]:
    """Return field → column of "user=uid,item=sku".

    >>> parse_names("user=uid,item=sku")
    {'user': 'uid', 'item': 'sku'}

    Raises:
        BackfillError: when it is written otherwise.
    """
    found = dict(pair.partition("=")[::2] for pair in text.split(",") if pair)
    if not all(field and name for field, name in found.items()):
        raise BackfillError(f"--columns {text}: write it as user=uid,item=sku: our name, then the column of the files")
    return found


def check_names(names: Mapping[str, str], columns: Sequence[Column]) -> None:
    """See that all fields that are mapped exist.

    Raises:
        BackfillError: names the first that does not, and those that do.
    """
    fields = list(dict.fromkeys(each.field for each in columns))
    known = {*fields, *(f"{each.source}.{each.field}" for each in columns)}
    if unknown := sorted(names.keys() - known):
        raise BackfillError(f"--columns: there is no {unknown[0]!r}; there are {', '.join(fields)}")


def check_schema(path: Any, schema: pa.Schema, columns: Sequence[Column]) -> list[Column]:
    """Return those columns that a file has.

    Raises:
        BackfillError: for one that is missing or of another type; names file, column and what is expected.
    """
    found = []
    for column in columns:
        places = schema.get_all_field_indices(column.name)
        if not places and column.required:
            raise BackfillError(
                f"{path} has no column {column.name!r} ({column.expected}); it has {', '.join(schema.names)}. Where it"
                f" is called otherwise: --columns {column.source}.{column.field}=NAME"
            )
        if len(places) > 1:
            raise BackfillError(f"{path} has {len(places)} columns {column.name!r}")
        if places:
            kind = schema.field(places[0]).type
            if not column.accepts(kind):
                raise BackfillError(f"{path}: column {column.name!r} is {kind}, and must be {column.expected}")
            found.append(column)
    return found
