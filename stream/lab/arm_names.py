"""Arms by name: presets, perhaps with options of the model, as `sam:passes=3:position=true`."""

from collections.abc import Sequence
from typing import Any

import msgspec

from model.spec import ModelSpec, overridden, preset


def named_spec(name: str, **changes: Any) -> ModelSpec:
    """Return the model that an arm's name means.

    Args:
        name: a preset, then `:option=value` as often as needed.
        changes: fields of the model that the name does not say.

    Raises:
        SpecError: for an unknown preset or option, or a model that cannot be.
    """
    base, *options = name.split(":")
    spec = preset(base)
    return overridden(spec, {**changes, **_changes(options, spec)})


def _changes(options: Sequence[str], spec: ModelSpec) -> dict[str, Any]:
    """Return `name=value` as changes of a specification, or of its interest model where it has no such field."""
    changes: dict[str, Any] = {}
    for option in options:
        name, _, text = option.partition("=")
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            value = text
        if name in spec.__struct_fields__:
            changes[name] = value
        else:
            changes.setdefault("interest", {})[name] = value
    return changes
