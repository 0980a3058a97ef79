"""Specifications, presets and fingerprints."""

import msgspec
import pytest

from model.errors import SpecError
from model.spec import PRESETS, ModelSpec, fingerprint, preset


def test_presets_are_found_by_name_and_by_length() -> None:
    assert preset("sam") == ModelSpec()
    assert preset("din-50") == ModelSpec(kind="din", length=50)
    assert preset("sam-3p+-200") == ModelSpec(enhancement=True, length=200)


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
        "sam": "b6cf9ec03b47c297bd67e342d6d1ab17",
        "sam-paper": "f299aaaf8dce89e249f02f20abb163e9",
        "sam-3p+": "2c98c3925dcb9edc5c581513cf2f9473",
        "din": "44eb39ed4c3cdb119d4676986f26eef0",
        "mean": "15798edb7777d4350dd1dbc01e35845e",
        "counts": "5f6999533bd820961088b855ff10a239",
    }


def test_fingerprints_differ_whenever_specifications_differ() -> None:
    specs = [*PRESETS.values(), preset("sam-50"), ModelSpec(feedback="stk"), ModelSpec(hidden=(64,))]
    assert len({fingerprint(spec) for spec in specs}) == len(specs)


def test_a_fingerprint_survives_encoding() -> None:
    for spec in PRESETS.values():
        decoded = msgspec.json.decode(msgspec.json.encode(spec), type=ModelSpec)
        assert fingerprint(decoded) == fingerprint(spec)
