"""The settings of a replay: the features of its data set, unless others are wanted."""

import argparse
from pathlib import Path

import pytest

from stream.cli.replay import add_parser, replay_settings
from stream.datasets import complete_journey, kuairand
from stream.schema.features import FeatureDefinition


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return parser.parse_args(["replay", "complete-journey", *words])


@pytest.mark.parametrize("features", [complete_journey.FEATURES, kuairand.FEATURES])
def test_every_arm_reads_the_features_of_the_data_set(features: dict[str, FeatureDefinition], tmp_path: Path) -> None:
    settings = replay_settings(arguments(), tmp_path, features)
    assert settings.features == features
    for arm in settings.models:
        assert [feature.name for feature in settings.spec(arm).features] == sorted(features)
    assert replay_settings(arguments(), tmp_path, {}).features == {}


def test_settings_define_a_feature_anew_and_add_to_those_of_the_data_set(tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(
        '[features]\nhour = { of = "context", kind = "number" }\nprice = { of = "item", kind = "number" }\n'
        '[[arms]]\nname = "sam"\nfeatures = ["price"]\n'
    )
    settings = replay_settings(arguments("--config", f"{config}"), tmp_path, complete_journey.FEATURES)
    own = {
        "hour": FeatureDefinition(of="context", kind="number"),
        "price": FeatureDefinition(of="item", kind="number"),
    }
    assert settings.features == {**complete_journey.FEATURES, **own}
    assert [feature.name for feature in settings.spec(settings.arms[0]).features] == ["price"]
