"""The section `[features]`: what it says, which arms read what, and what is said about what cannot be."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from model.errors import UpdateRefused
from model.learner import Learner
from model.scorer import Scorer
from state.behavior import BEHAVIOR
from state.feature import Feature
from stream.errors import SettingsError
from stream.schema.features import MAX_FEATURES, FeatureDefinition
from stream.settings import Settings, convert, load

TOML = """
[worker]
unknown_features = "refuse"

[features.brand]
of = "item"
kind = "category"
default = "none"

[features.price]
of = "item"
kind = "number"
default = 5

[features.tags]
of = "behavior"
kind = "categories"

[features.picture]
of = "item"
kind = "vector"
size = 8

[features]
hour = { of = "context", kind = "number" }

[[arms]]
name = "all"

[[arms]]
name = "some"
preset = "din-50"
features = ["price", "hour"]

[[arms]]
name = "none"
preset = "counts"
features = []

[[arms]]
name = "popular"
preset = "popularity"
"""


def loaded(directory: Path, text: str = TOML) -> Settings:
    path = directory / "settings.toml"
    path.write_text(text)
    return load(path, environ={})


def test_a_toml_file_defines_features_and_says_which_arms_read_them(tmp_path: Path) -> None:
    settings = loaded(tmp_path)
    assert settings.features["brand"] == FeatureDefinition(of="item", kind="category", default="none")
    assert settings.features["price"].default == 5.0
    every = (
        Feature("brand", "item", "category"),
        Feature("hour", "context", "number"),
        Feature("picture", "item", "vector", 8),
        Feature("price", "item", "number"),
        Feature("tags", "behavior", "categories", 4),
    )
    read = [settings.spec(arm).features for arm in settings.arms]
    assert read == [every, (every[1], every[3]), (), ()]
    schema = settings.feature_schema()
    assert schema.layout == settings.feature_layout
    assert schema.layout.behavior.itemsize == BEHAVIOR.itemsize + 4 * (1 + 1 + 8 + 4)
    with pytest.raises(ValueError, match="unknown field"):
        schema.pack_context(msgspec.Raw(b'{"x": 1}'))


def test_the_environment_and_flags_can_define_them() -> None:
    settings = load(
        environ={"SAMSTREAM_FEATURES__BRAND": '{ of = "item", kind = "category" }'},
        overrides=['features.hour={ of = "context", kind = "number" }'],
    )
    assert {name: definition.kind for name, definition in settings.features.items()} == {
        "brand": "category",
        "hour": "number",
    }


def test_without_any_records_are_as_they_were() -> None:
    settings = convert({})
    assert settings.feature_layout.text == ""
    assert settings.feature_layout.behavior == BEHAVIOR
    assert not settings.feature_schema()
    assert settings.spec(settings.arms[0]).features == ()


NUMBER = {"of": "item", "kind": "number"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"features": {"price": {"of": "item"}}}, r"kind.*features"),
        ({"features": {"price": NUMBER | {"of": "shop"}}}, r"shop.*features"),
        ({"features": {"price": NUMBER | {"kind": "text"}}}, r"text.*features"),
        ({"features": {"price": NUMBER | {"sort": 1}}}, r"sort.*features"),
        ({"features": {"a price": NUMBER}}, "features"),
        ({"features": {"x" * 65: NUMBER}}, "features"),
        ({"features": {"price": NUMBER | {"size": 0}}}, "features"),
        ({"features": {"price": NUMBER | {"size": 257}}}, "features"),
        ({"features": {"price": NUMBER | {"default": True}}}, "features"),
        ({"features": {"price": NUMBER | {"size": 2}}}, r"^features\.price: a number has size 1"),
        ({"features": {"price": NUMBER | {"default": "x"}}}, r"^features\.price: a default of 'x' is none"),
        ({"features": {"price": NUMBER | {"default": 1e16}}}, r"^features\.price: the default must be within"),
        ({"features": {"look": {"of": "item", "kind": "vector"}}}, r"^features\.look: a vector needs its size"),
        ({"features": {"tags": {"of": "item", "kind": "categories", "size": 17}}}, r"^features\.tags: at most 16"),
        ({"features": {"ts": NUMBER}}, r"^features\.ts: events have a field of this name already"),
        ({"features": {"item": NUMBER}}, r"^features\.item: events have a field"),
        (
            {"features": {f"f{number}": NUMBER for number in range(MAX_FEATURES + 1)}},
            f"^features: {MAX_FEATURES + 1} of them; at most {MAX_FEATURES}",
        ),
        ({"arms": [{"name": "a", "features": ["price"]}]}, r"^arm 'a' reads feature 'price'; there are \[\]"),
        ({"arms": [{"name": "a", "model": {"features": []}}]}, r"^arm 'a': features are no field of its model"),
        (
            {"features": {"price": NUMBER}, "arms": [{"name": "a", "features": ["price", "prize"]}]},
            r"^arm 'a' reads feature 'prize'; there are \['price'\]",
        ),
        (
            {
                "features": {"price": NUMBER},
                "arms": [
                    {"name": "a"},
                    {"name": "b"},
                    {"name": "c", "interleave": ["a", "b"], "features": ["price"]},
                ],
            },
            "^arm 'c' interleaves others and has no model of its own: drop features",
        ),
        ({"worker": {"unknown_features": "keep"}}, "unknown_features"),
        (
            {"features": {f"v{number}": {"of": "item", "kind": "vector", "size": 256} for number in range(3)}},
            r"^features: 1000 candidates of 3072 bytes .* samples of 3072000 bytes, more than .* lower worker\.max_",
        ),
        (
            {
                "features": {"look": {"of": "item", "kind": "vector", "size": 256}},
                "state": {"length": 50},
                "worker": {"max_candidates": 1000},
            },
            r"1000 candidates of 1024 bytes make .* lower worker\.max_candidates",
        ),
    ],
)
def test_what_cannot_be_is_told_with_its_place(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        convert(values)


def test_large_features_fit_with_a_shorter_sequence_and_fewer_candidates() -> None:
    look = {"look": {"of": "item", "kind": "vector", "size": 256}}
    settings = convert(
        {
            "features": look,
            "state": {"length": 100},
            "worker": {"max_candidates": 500},
            "arms": [{"name": "a", "preset": "sam-100"}],
        }
    )
    assert settings.feature_layout.behavior.itemsize == 22 + 1024


def test_workers_and_trainers_of_different_features_say_so() -> None:
    values = {"arms": [{"name": "a", "preset": "counts-10"}]}
    trainer, worker = convert(values | {"features": {"price": NUMBER}}), convert(values)
    learner = Learner(trainer.spec(trainer.arms[0]), seed=trainer.seed)
    learner.begin_epoch(1)
    scorer = Scorer(worker.spec(worker.arms[0]), seed=worker.seed)
    with pytest.raises(UpdateRefused, match="need the same preset, model and features of this arm, and the same seed"):
        scorer.apply(learner.base("a"))


def test_arms_that_differ_in_features_alone_have_other_models() -> None:
    settings = convert(
        {
            "features": {"price": NUMBER},
            "arms": [{"name": "a", "preset": "counts-10"}, {"name": "b", "preset": "counts-10", "features": []}],
        }
    )
    one, other = (Learner(settings.spec(arm), seed=settings.seed).fingerprint for arm in settings.arms)
    assert one != other
