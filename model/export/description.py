"""What an export says of itself: inputs, how ids become keys and keys become rows, and examples to check oneself by."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from model.embedding.initial import initial_vectors
from model.export.module import inputs_of
from model.features.gather import Columns, columns, columns_of
from model.predict import table_dims, table_initials
from model.serialization.update import Update
from model.spec import ModelSpec
from state.behavior import action_key, category_key, item_key
from state.feature import Feature

FORMAT = 1
_SAMPLE_KEYS = (1, 2**63 + 5)

_KEYS = {
    "item": "XXH3-64 of the id's UTF-8; 1 where that is 0",
    "category": "the low 32 bits of XXH3-64 of the name's UTF-8, 1 where they are 0; 0 for the empty name",
    "action": "the low 16 bits of XXH3-64 of the name's UTF-8, 1 where they are 0; 0 for the empty name",
    "feature": "upper 32 bits: category key of the feature's name; lower 32: category key of its value; 0: missing",
}
_LOOKUP = (
    "<table>/keys in tables.safetensors are uint64, ascending, each once: search a key there, and take the row of"
    " <table>/values at its place. Key 0 is zeros. A key that is not there has its initial vector."
)
_INITIAL = (
    "mix(x): x ^= x >> 30; x *= 0xBF58476D1CE4E5B9; x ^= x >> 27; x *= 0x94D049BB133111EB; x ^= x >> 31 (64 bits,"
    " splitmix64). s = mix(key ^ mix(seed)). Coordinate i from 0: w = mix(s + (i + 1) * 0x9E3779B97F4A7C15); the sum of"
    " its four 16-bit lanes, less 131070, times std / sqrt((2^32 - 1) / 3). Without a seed: zeros."
)
_NUMBERS = (
    "n is the decayed count of a key: row of statistics.<of>/sums times 2^(-(time of the request - times) / half-life),"
    " 0 where it is not there; everything is that of category 2^32. own is the same of the user's newest `length`"
    " behaviours of that key (of key 0: 0), all_own that of all of them. For item, then category: ln(n + 0.01) at each"
    " half-life and ever; those at the half-lives less the one of ever; at each half-life and ever"
    " ln((own + 0.01) / (all_own + 1)) - ln((n + 1) / (everything + 1)). Rounded to float16."
)


def describe(
    spec: ModelSpec, seed: int, update: Update, *, format_: str, length: int | None, statistics_length: int
) -> dict[str, Any]:
    """Return what `export.json` says, without what is only known once the export is written.

    Args:
        spec: the model.
        seed: of its initial vectors.
        update: its parameters.
        format_: of the export.
        length: the L of its graph; None for any.
        statistics_length: behaviours of a user of which statistics tell the share.
    """
    tables = [name for name in table_dims(spec) if f"{name}/keys" in update.tensors]
    return {
        "samstream_export": FORMAT,
        "format": format_,
        "arm": update.arm,
        "epoch": update.epoch,
        "version": update.version,
        "fingerprint": update.fingerprint,
        "model": msgspec.to_builtins(spec),
        "inputs": [
            {"name": each.name, "dtype": each.dtype, "shape": list(each.shape), "meaning": each.meaning}
            for each in inputs_of(spec)
        ],
        "output": {"name": "probabilities", "dtype": "float32", "shape": ["C"], "meaning": "of a click, in (0, 1)"},
        "L": {"most": max(spec.length, 1), "exactly": length, "meaning": "behaviours, the newest; at least one row"},
        "C": {"least": 1, "meaning": "candidates; none changes the score of another"},
        "keys": {"how": _KEYS, "examples": _key_examples()},
        "rows": {"how": _LOOKUP, "initial": _INITIAL, "tables": {name: _table(spec, seed, name) for name in tables}},
        "statistics": _statistics(spec, statistics_length),
        "features": _features(columns_of(spec.features)) if spec.features else {},
    }


def _key_examples() -> Mapping[str, Mapping[str, int]]:
    return {
        "item": {name: item_key(name) for name in ("kettle", "1")},
        "category": {name: category_key(name) for name in ("kitchen", "")},
        "action": {name: action_key(name) for name in ("view", "")},
    }


def _table(spec: ModelSpec, seed: int, name: str) -> dict[str, Any]:
    initial, dim = table_initials(spec, seed)[name], table_dims(spec)[name]
    keys = np.array(_SAMPLE_KEYS, np.uint64)
    return {
        "dim": dim,
        "initial": None if initial is None else {"seed": initial.seed, "std": initial.std},
        "initial_examples": dict(
            zip(map(str, _SAMPLE_KEYS), initial_vectors(keys, dim, initial).tolist(), strict=True)
        ),
    }


def _statistics(spec: ModelSpec, length: int) -> dict[str, Any]:
    if not spec.numbers:
        return {}
    return {"half_lives_s": list(spec.statistics), "length": length, "how": _NUMBERS}


def _features(read: Columns) -> dict[str, Any]:
    return {
        "target_numbers": _columns(read.shown_numbers),
        "target_texts": _columns(read.shown_keys),
        "history_numbers": _columns(read.past_numbers),
        "history_texts": _columns(read.past_keys),
    }


def _columns(features: tuple[Feature, ...]) -> list[dict[str, Any]]:
    return [
        {
            "feature": feature.name,
            "of": feature.of,
            "kind": feature.kind,
            "columns": [at.start, at.stop],
            "value": "key" if feature.embeds else "asinh of the number" if feature.kind == "number" else "the numbers",
        }
        for feature, at in zip(features, columns(features).values(), strict=True)
    ]
