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
        "sam": "61b0ab3cf416b2094c1ec7607178828a",
        "sam-paper": "d263d88addf37e0d12a8c3fe3a551049",
        "sam-3p+": "5cf7e768e29d79e7c6430b83d037baab",
        "din": "a42d57e3571cc8d0c8215c92bf49dba7",
        "mean": "d972db36897049e1ca942af34bd09114",
        "counts": "8f84ac1f5f701c3d9a15c34d0665174d",
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
