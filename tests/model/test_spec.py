"""Specifications, presets and fingerprints."""

import math
import re

import msgspec
import pytest

from model.errors import SpecError
from model.interest.options import Counts, Din, Popularity, Random, Sam
from model.spec import HALF_LIVES_S, PARAMETER_FORMAT, PRESETS, ModelSpec, fingerprint, overridden, preset


def test_presets_are_found_by_name_and_by_length() -> None:
    assert preset("sam") == ModelSpec(statistics=HALF_LIVES_S)
    assert preset("din-50") == ModelSpec(interest=Din(), length=50, statistics=HALF_LIVES_S)
    enhanced = Sam(passes=3, enhancement=True)
    assert preset("sam-3p+-200") == ModelSpec(interest=enhanced, length=200, statistics=HALF_LIVES_S)


def test_the_paper_preset_switches_off_what_the_paper_does_not_have() -> None:
    spec = preset("sam-paper")
    assert spec.interest == Sam(passes=3, normalise_readout=False, enhancement=True, feedback="iter")
    assert not spec.match


@pytest.mark.parametrize("name", ["", "50", "bst", "bst-50", "din50", "din--50", "din-0", "random-50", "popularity-5"])
def test_an_unknown_preset_is_an_error(name: str) -> None:
    with pytest.raises(SpecError):
        preset(name)


@pytest.mark.parametrize(
    "fields",
    [
        {"length": 0},
        {"length": -1},
        {"hidden": (8, 0)},
        {"interest": Counts(), "match": False},
        {"interest": Popularity()},
        {"interest": Popularity(), "length": 0, "match": False},
        {"interest": Random(), "length": 50, "match": False},
        {"interest": Popularity(), "length": 0, "match": False, "item_dim": 1, "category_dim": 1, "statistics": (5.0,)},
        *({"statistics": lives} for lives in ((0.0,), (-1.0,), (5.0, 5.0), (9.0, 5.0), (math.inf,), (math.nan,))),
    ],
)
def test_an_impossible_specification_is_an_error(fields: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        ModelSpec(**fields)  # type: ignore[arg-type]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(msgspec.to_builtins(fields), ModelSpec)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lenght": 5}, "model has no lenght; it has: interest, length,"),
        ({"interest": {"kind": "bst"}}, "model.interest.kind is 'bst'; known: sam, din, mean"),
        ({"interest": {"kind": "din", "passes": 2}}, "kind 'din' has no passes; it has: kind, attention_hidden"),
        ({"interest": {"passes": 0}}, "interest.passes is 0, but must be at least 1"),
        ({"interest": {"passes": "two"}}, "passes"),
        ({"interest": "din"}, "model.interest is 'din', but must be a table"),
    ],
)
def test_what_cannot_be_overridden_is_said_with_what_can(changes: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        overridden(preset("sam"), changes)


def test_options_are_overridden_one_by_one_and_all_of_them_by_another_kind() -> None:
    spec = preset("sam-3p+-50")
    assert overridden(spec, {"interest": {"feedback": "stk"}}) == msgspec.structs.replace(
        spec, interest=Sam(passes=3, enhancement=True, feedback="stk")
    )
    assert overridden(spec, {"interest": {"kind": "din"}, "pool": False}) == msgspec.structs.replace(
        spec, interest=Din(), pool=False
    )


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError, match="lenght"):
        msgspec.convert({"lenght": 50}, ModelSpec)


def test_the_fingerprints_of_what_has_learned_stay_what_they_were() -> None:
    """Another one would refuse every checkpoint there is."""
    assert {name: fingerprint(PRESETS[name]) for name in ("sam", "sam-paper", "sam-3p+", "din", "mean", "counts")} == {
        "sam": "d448647061ac66d6c30635c60c1bf4c3",
        "sam-paper": "ea2749a000c1b46a2da06b3075871ba6",
        "sam-3p+": "fa93225e69cd255cfd3b1b2ad8793267",
        "din": "deb6fe5995b4b354439a1baee31aa52f",
        "mean": "600796e9716ee43f4988581057caac32",
        "counts": "aa13ef4c9108df8e14a321c9d398b9c5",
    }


def test_defaults_of_options_stay_what_they_were() -> None:
    """A fingerprint does not tell a default: whoever changes one raises `PARAMETER_FORMAT` as well."""
    assert PARAMETER_FORMAT == 4
    assert msgspec.structs.asdict(Sam()) == {
        "passes": 2,
        "feedback": "iter",
        "output": "ends",
        "shared_attention": False,
        "enhancement": False,
        "attention_hidden": 8,
        "normalise_readout": True,
    }
    assert msgspec.structs.asdict(Din()) == {"attention_hidden": 8, "normalise_readout": True}


def test_fingerprints_differ_whenever_specifications_differ() -> None:
    specs = [
        *PRESETS.values(),
        preset("sam-50"),
        ModelSpec(interest=Sam(feedback="stk")),
        ModelSpec(hidden=(64,)),
        ModelSpec(interest=Sam(output="readouts")),
    ]
    specs += [ModelSpec(statistics=lives) for lives in ((60.0,), (60.0, 600.0))]
    assert len({fingerprint(spec) for spec in specs}) == len(specs)


def test_a_fingerprint_survives_encoding() -> None:
    for spec in PRESETS.values():
        decoded = msgspec.json.decode(msgspec.json.encode(spec), type=ModelSpec)
        assert fingerprint(decoded) == fingerprint(spec)
