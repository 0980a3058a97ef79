"""Specifications, presets and fingerprints."""

import math

import msgspec
import pytest

from model.errors import SpecError
from model.spec import HALF_LIVES_S, PRESETS, ModelSpec, fingerprint, preset


def test_presets_are_found_by_name_and_by_length() -> None:
    assert preset("sam") == ModelSpec(statistics=HALF_LIVES_S)
    assert preset("din-50") == ModelSpec(kind="din", length=50, statistics=HALF_LIVES_S)
    assert preset("sam-3p+-200") == ModelSpec(passes=3, enhancement=True, length=200, statistics=HALF_LIVES_S)


def test_the_paper_preset_switches_off_what_the_paper_does_not_have() -> None:
    spec = preset("sam-paper")
    assert (spec.match, spec.normalise_readout, spec.enhancement, spec.feedback) == (
        False,
        False,
        True,
        "iter",
    )


@pytest.mark.parametrize("name", ["", "50", "bst", "bst-50", "din50", "din--50", "din-0", "random-50", "popularity-5"])
def test_an_unknown_preset_is_an_error(name: str) -> None:
    with pytest.raises(SpecError):
        preset(name)


@pytest.mark.parametrize(
    "fields",
    [
        {"length": 0},
        {"passes": 0},
        {"hidden": (8, 0)},
        {"kind": "counts", "match": False},
        {"kind": "popularity"},
        {"kind": "popularity", "length": 0, "match": False},
        {"kind": "random", "length": 50, "match": False},
        {"kind": "popularity", "length": 0, "match": False, "item_dim": 1, "category_dim": 1, "statistics": (5.0,)},
        *({"statistics": lives} for lives in ((0.0,), (-1.0,), (5.0, 5.0), (9.0, 5.0), (math.inf,), (math.nan,))),
    ],
)
def test_an_impossible_specification_is_an_error(fields: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        ModelSpec(**fields)  # type: ignore[arg-type]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, ModelSpec)


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError, match="lenght"):
        msgspec.convert({"lenght": 50}, ModelSpec)


def test_the_fingerprints_of_what_has_learned_stay_what_they_were() -> None:
    """Another one would refuse every checkpoint there is."""
    assert {name: fingerprint(PRESETS[name]) for name in ("sam", "sam-paper", "sam-3p+", "din", "mean", "counts")} == {
        "sam": "1b692871d9ef75fb77533b637114da16",
        "sam-paper": "b78497d5e4e4663c6dec9c99e8149942",
        "sam-3p+": "952b29dcd9f9608eaf1e0e4ffc28dd75",
        "din": "fdca0afe7b5c13ea1a91167165ed8795",
        "mean": "b105cc1bb89eea6b516b78385b6b756f",
        "counts": "dcd7c4450fde64094914f218632f5a57",
    }


def test_fingerprints_differ_whenever_specifications_differ() -> None:
    specs = [
        *PRESETS.values(),
        preset("sam-50"),
        ModelSpec(feedback="stk"),
        ModelSpec(hidden=(64,)),
        ModelSpec(output="readouts"),
    ]
    specs += [ModelSpec(statistics=lives) for lives in ((60.0,), (60.0, 600.0))]
    assert len({fingerprint(spec) for spec in specs}) == len(specs)


def test_a_fingerprint_survives_encoding() -> None:
    for spec in PRESETS.values():
        decoded = msgspec.json.decode(msgspec.json.encode(spec), type=ModelSpec)
        assert fingerprint(decoded) == fingerprint(spec)
