"""The settings of a replay: the features of its data set, unless others are wanted."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from stream.cli.options import Commands
from stream.cli.replay import add_parser, replay_settings
from stream.datasets.base import Dataset, advised_features
from stream.datasets.kuairand import Exposure, KuaiRand, Video
from stream.errors import SettingsError
from stream.schema.features import FeatureDefinition


@pytest.fixture
def dataset() -> Dataset:
    shown = [Exposure(5, 7, "1", "0", clicked=True, long_view=False)]
    return KuaiRand(shown, np.zeros((0, 4), np.int64), {"1": Video(("3",), "9", 12.0)})


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands: Commands = parser.add_subparsers()
    add_parser(commands)
    return parser.parse_args(["replay", "kuairand", *words])


def test_every_arm_reads_the_features_that_the_data_set_advises(dataset: Dataset, tmp_path: Path) -> None:
    settings = replay_settings(arguments(), tmp_path, dataset)
    assert settings.features == advised_features(dataset)
    for arm in settings.models:
        assert [feature.name for feature in settings.spec(arm).features] == sorted(dataset.advised)
    assert replay_settings(arguments("--no-features"), tmp_path, dataset).features == {}


def test_settings_define_a_feature_anew_and_add_to_those_of_the_data_set(dataset: Dataset, tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(
        '[features]\ntab = { of = "user", kind = "number" }\nhour = { of = "context", kind = "number" }\n'
        '[[arms]]\nname = "sam"\nfeatures = ["hour"]\n'
    )
    settings = replay_settings(arguments("--config", f"{config}"), tmp_path, dataset)
    own = {
        "tab": FeatureDefinition(of="user", kind="number"),
        "hour": FeatureDefinition(of="context", kind="number"),
    }
    assert settings.features == advised_features(dataset) | own
    assert [feature.name for feature in settings.spec(settings.arms[0]).features] == ["hour"]


def test_what_workers_would_refuse_is_said_before_the_replay(dataset: Dataset, tmp_path: Path) -> None:
    words = ["--set", "worker.unknown_features=refuse", "--no-features"]
    with pytest.raises(SettingsError, match=r"the events say author, .*: define these in \[features\]"):
        replay_settings(arguments(*words), tmp_path, dataset)
