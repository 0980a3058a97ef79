"""Reads the settings: a TOML (or JSON) file, then the environment, then flags; the later wins.

Environment variables are `SAMSTREAM_<SECTION>__<KEY>` (for example `SAMSTREAM_WORKER__COMMIT_INTERVAL_S=0.2`), and
`SAMSTREAM__<KEY>` for a key without a section. Section `kafka` takes any librdkafka property; in the environment its
dots are underscores (`SAMSTREAM_KAFKA__BOOTSTRAP_SERVERS=broker:9092`). Flags are `--set section.key=value`. No error
shows a value of section `kafka`, which can be a password.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from stream.errors import SettingsError
from stream.settings.settings import Settings

_TARGET = re.compile(r"[\w.]*")
_VARIABLE = re.compile(r"SAMSTREAM_(?:([A-Za-z0-9]\w*?)_)?_([A-Za-z0-9]\w*)", re.ASCII)


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings: file, then environment, then `section.key=value` overrides.

    Args:
        path: the file, TOML or JSON; none when None.
        environ: the environment.
        overrides: `section.key=value`, values as in TOML.
        defaults: what a job prefers to the general defaults; a section of the file changes single keys of it.

    Raises:
        SettingsError: for a file that cannot be read, an unknown key or a value of the wrong type; says where.
    """
    merged: dict[str, Any] = {
        section: dict(value) if isinstance(value, Mapping) else value for section, value in (defaults or {}).items()
    }
    for section, value in (_read(path) if path else {}).items():
        preferred = merged.get(section)
        merged[section] = {**preferred, **value} if isinstance(preferred, dict) and isinstance(value, dict) else value
    for name, value in environ.items():
        if name.startswith("SAMSTREAM_") and "__" in name:
            _put(merged, _keys_of_variable(name), value, name)
    for override in overrides:
        target, equals, value = override.partition("=")
        keys = target.split(".", 1)
        if not equals or not all(keys):
            shown = _TARGET.match(override)[0]  # type: ignore[index]
            raise SettingsError(f"--set {shown}: write it as section.key=value")
        _put(merged, keys, value, f"--set {target}")
    if isinstance(kafka := merged.get("kafka"), dict):
        merged["kafka"] = dict(_properties(kafka))
    return convert(merged)


def convert(values: Mapping[str, Any]) -> Settings:
    """Check plain values and return them as `Settings`.

    Raises:
        SettingsError: for an unknown key or a value of the wrong type or range.
    """
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        # msgspec wraps what __post_init__ raises; the message is ours either way.
        raise SettingsError(f"settings: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: holds {type(values).__name__}, not sections with keys")
    return values


def _keys_of_variable(name: str) -> list[str]:
    """Return section and key of an environment variable, or the key alone where it names no section.

    Raises:
        SettingsError: when there is no key in it.
    """
    parts = _VARIABLE.fullmatch(name)
    if parts is None:
        raise SettingsError(f"{name}: write it as SAMSTREAM_<SECTION>__<KEY>, or SAMSTREAM__<KEY> for salt and seed")
    section, key = (part and part.lower() for part in parts.groups())
    if section is None:
        return [key]
    return [section, key.replace("_", ".") if section == "kafka" else key]


def _put(values: dict[str, Any], keys: list[str], text: str, origin: str) -> None:
    inner = values
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"{origin}: {key} is a value, not a section")
    inner[keys[-1]] = text if keys[0] == "kafka" else _parse(text)


def _parse(text: str) -> Any:
    """Read a TOML value; text that is none is taken as a string."""
    try:
        match tomllib.loads(f"value = {text}"):
            case {"value": value, **others} if not others:
                return value
    except (ValueError, RecursionError):
        pass
    return text


def _properties(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield librdkafka's properties; in TOML, a key with dots that is not quoted has become tables."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _properties(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value).lower() if isinstance(value, bool) else str(value)
