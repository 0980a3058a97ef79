"""`docs/settings.md`: every setting with type, default and meaning, from `stream.settings` and the model's specs."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct
from msgspec import inspect as types

from docs.generator.markdown import table
from model import spec
from model.interest.options import KINDS, Options
from stream.schema.features import FeatureDefinition
from stream.settings import RESERVED, ArmSettings, Guardrail, RampStep, Settings

_HEAD = """# Settings

*This page is written by `python -m docs.generator`; do not edit it.*

Settings come from a file (TOML or JSON), then from the environment, then from `--set`; the later wins. Every command
takes `--config FILE` and `--set`. An unknown key is an error that names it.

| where | how `worker.commit_interval_s` is written |
|---|---|
| TOML file | `[worker]`, then `commit_interval_s = 0.2` |
| JSON file | `{"worker": {"commit_interval_s": 0.2}}` |
| environment | `SAMSTREAM_WORKER__COMMIT_INTERVAL_S=0.2`: the prefix, the section, two underscores, the key |
| flag | `--set worker.commit_interval_s=0.2`; the value as in TOML, text needs no quotes |

`salt`, `seed`, `features`, `arms` and `ramp` have no section: `--set salt=spring-test`, `SAMSTREAM__SALT=spring-test`.

Groups and directories that are not set follow from `topics.prefix`. Below they are those without a prefix; with the
prefix `shop.` the worker's group is `shop.samstream-worker`, and its state lies in `.samstream/prefix-shop./state`.

```toml
salt = "spring-test"             # with the user's id it decides the arm

[kafka]                          # any librdkafka property
"bootstrap.servers" = "kafka-1:9093,kafka-2:9093"
"security.protocol" = "SASL_SSL"
"sasl.mechanism" = "SCRAM-SHA-512"
"sasl.username" = "samstream"
"ssl.ca.location" = "/etc/ssl/kafka-ca.pem"

[topics]
partitions = 32
replication = 3

[[arms]]
name = "sam-1000"
share = 9

[[arms]]
name = "wide-sam"
share = 1
preset = "sam-500"
model = { item_dim = 32, hidden = [128, 64] }
learn_from = "all"
optim = { dense_lr = 0.002 }
```

Worker and trainer must have the same `features`, `arms`, `ramp` and `seed`.

## kafka

Any librdkafka property, by default `bootstrap.servers = "localhost:9092"`. In the file its name may be quoted or not.
In the environment its dots are underscores: `SAMSTREAM_KAFKA__SASL_PASSWORD` keeps the password out of the file. Values
of this section are never printed, but for the address. [TLS and SASL](operations.md#tls-and-sasl) shows the usual ones.

These belong to samstream, since its promises rest on them; setting one is an error: """

_FEATURES = """## features

A table by name: letters, digits and `_`, at most 64 features, none unless set. What they are sent in is on
[Kafka](kafka.md#features), what models do with them in [Models](models.md#features), how one is added on
[Operations](operations.md#features-that-change).

```toml
[features.brand]
of = "item"
kind = "category"

[features.price]
of = "item"
kind = "number"

[features]
hour = { of = "context", kind = "number" }
```"""

_ARMS = """## arms

A list; the first one and the only one is `sam` unless set. [Models](models.md) says which presets there are."""


_INTEREST = """### arms.model.interest

The kind of model, and what is chosen of it: `model = { interest = { kind = "sam", passes = 3 } }`. Options of the
preset's own kind are overridden one by one; with another `kind`, all others are that kind's defaults. An option of one
kind is an error for another."""


def settings_page() -> str:
    """Return the page.

    Raises:
        ValueError: for a key without a description.
    """
    reserved = ", ".join(f"`{name}`" for name in sorted(RESERVED))
    plain, sections = [], []
    for each in types.type_info(Settings).fields:  # type: ignore[attr-defined]
        if isinstance(each.type, types.StructType):
            sections.append(_section(each.name, each.type.cls))
            if each.name == "experiment":
                sections.append(f"### experiment.guardrails\n\nA list. {_lead(Guardrail)}\n\n{_table(Guardrail)}")
        elif each.name not in ("kafka", "features", "arms", "ramp"):
            plain.append(each.name)
    general = f"## General\n\n{_table(Settings, plain)}"
    features = f"{_FEATURES}\n\n{_table(FeatureDefinition)}"
    arms = f"{_ARMS}\n\n{_table(ArmSettings)}"
    ramp = f"## ramp\n\nA list, empty unless set. {_lead(RampStep)}\n\n{_table(RampStep)}"
    model = f"### arms.model\n\n{_lead(spec.ModelSpec)}\n\n{_table(spec.ModelSpec)}"
    interest = "\n\n".join((_INTEREST, *(_kind(name, options) for name, options in KINDS.items())))
    optim = f"### arms.optim\n\n{_lead(spec.OptimSpec)}\n\n{_table(spec.OptimSpec)}"
    return "\n\n".join((f"{_HEAD}{reserved}.", general, *sections, features, arms, model, interest, optim, ramp)) + "\n"


def _kind(name: str, options: type[Struct]) -> str:
    table_of_options = f"\n\n{_table(options)}" if types.type_info(options).fields else ""  # type: ignore[attr-defined]
    return f"#### {name}\n\n{_lead(options)}{table_of_options}"


def _section(name: str, cls: type[Struct]) -> str:
    table_of_keys = _table(cls, prefix=f"{name}.", values=getattr(Settings(), name))
    return f"## {name}\n\n{_lead(cls)}\n\n{table_of_keys}"


def _lead(cls: type[Struct]) -> str:
    """Return what a docstring says before its attributes."""
    return inspect.getdoc(cls).partition("\nAttributes:")[0].strip()  # type: ignore[union-attr]


def _table(cls: type[Struct], names: list[str] | None = None, prefix: str = "", values: Struct | None = None) -> str:
    """Return the table of a class's fields; defaults are those of the fields, or of `values` where there are any."""
    meanings = attributes(cls)
    rows = []
    for each in types.type_info(cls).fields:  # type: ignore[attr-defined]
        if names is not None and each.name not in names:
            continue
        if each.name not in meanings:
            raise ValueError(f"{cls.__module__}.{cls.__name__}.{each.name} has no description under Attributes")
        meaning = meanings[each.name]
        kind = type_words(each.type)
        default = _default(each) if values is None else _default_words(getattr(values, each.name))
        rows.append((f"`{prefix}{each.name}`", kind, default, meaning[:1].upper() + meaning[1:]))
    return table(("key", "type", "default", "meaning"), rows)


def attributes(cls: type[Struct]) -> dict[str, str]:
    """Return what the section *Attributes* of a docstring says of each field.

    >>> class Point(Struct):
    ...     '''A point.
    ...
    ...     Attributes:
    ...         x: to the right,
    ...             in metres.
    ...         y: upwards.
    ...     '''
    ...
    ...     x: float
    ...     y: float
    >>> attributes(Point)
    {'x': 'to the right, in metres.', 'y': 'upwards.'}
    """
    listed = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2].partition("\n\n    ")[0]
    return dict(_items(listed))


def _items(listed: str) -> Iterator[tuple[str, str]]:
    for item in re.split(r"\n(?=    \w)", "\n" + listed.rstrip()):
        names, _, text = item.strip().partition(":")
        for name in filter(None, names.split(", ")):
            yield name, " ".join(text.split())


def type_words(kind: types.Type) -> str:
    """Return a type as people say it.

    >>> type_words(types.FloatType(gt=0)), type_words(types.IntType(ge=1, le=9)), type_words(types.BoolType())
    ('number > 0', 'integer 1 to 9', 'true or false')
    >>> type_words(types.UnionType((types.FloatType(), types.StrType(), types.NoneType())))
    'number or text'
    """
    match kind:
        case types.UnionType():
            words = (type_words(each) for each in kind.types if not isinstance(each, types.NoneType))
            return " or ".join(dict.fromkeys(words))
        case types.IntType() | types.FloatType():
            return f"{'integer' if isinstance(kind, types.IntType) else 'number'}{_range(kind)}"
        case types.BoolType():
            return "true or false"
        case types.LiteralType():
            *others, last = (f"`{value}`" for value in kind.values)
            return f"{', '.join(others)} or {last}" if others else last
        case types.VarTupleType() | types.ListType():
            return f"list of {type_words(kind.item_type)}"
        case types.StrType():
            return "name" if kind.pattern else "text"
        case types.DateTimeType():
            return "time with zone"
        case types.DictType():
            return "table"
        case types.StructType():
            return "table"
    raise TypeError(f"no words for {kind}")


def _range(kind: types.IntType | types.FloatType) -> str:
    low = f"> {kind.gt:g}" if kind.gt is not None else "" if kind.ge is None else f"≥ {kind.ge:g}".replace("-", "−")
    high = None if kind.le is None or kind.le >= 1e9 else f"{kind.le:_}".removesuffix(".0")
    if high is None:
        return f" {low}" if low else ""
    return f" {kind.ge:g} to {high}" if kind.ge is not None else f" {low}, ≤ {high}" if low else f" ≤ {high}"


def _default(each: types.Field) -> str:
    value: Any = each.default
    if value is msgspec.NODEFAULT:
        if each.default_factory is msgspec.NODEFAULT:
            return "required"
        value = each.default_factory()
    return _default_words(value)


def _default_words(value: Any) -> str:
    if isinstance(value, Options):
        return f"`{value.kind}`"
    if isinstance(value, Struct) or value in ({}, (), None):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    if isinstance(value, int | float):
        return f"{value:_}".removesuffix(".0")
    return f"`{value}`" if value else "empty"
