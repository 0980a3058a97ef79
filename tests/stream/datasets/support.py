"""What several tests of data sets do."""

import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from stream.datasets.base import Dataset, Visit
from stream.schema.features import FeatureSchema, Given

START = 1_650_000_000_000
"""The first moment (ms) of a log of exposures: 2022-04-15 05:20 UTC."""
EXPOSURES_HEADER = "user_id\tvideo_id\ttime_ms\tis_click\tlong_view\tplay_time_ms\tduration_ms\ttab\tauthor_id\ttag\n"


def decoded(features: Given) -> dict[str, Any]:
    """Return the features of an event, as its JSON has them."""
    assert isinstance(features, msgspec.Raw)
    found: dict[str, Any] = msgspec.json.decode(features)
    return found


def packed(dataset: Dataset) -> FeatureSchema:
    """Pack the features of all events as a strict worker does; return its schema, which counts what was missing."""
    schema = FeatureSchema(dataset.features, refuse_unknown=True)
    for step in dataset.steps():
        for behavior in step.behaviors:
            schema.pack_behavior(behavior.features)
        if isinstance(step, Visit):
            schema.pack_context(step.impression.features)
            for place, candidate in enumerate(step.impression.candidates):
                schema.pack_item(candidate.features, place)
    return schema


def write_exposures(
    directory: Path, impressions: list[tuple[int, int, int, int, str]], history: Sequence[tuple[int, int, int]]
) -> Path:
    """Write a folder of KuaiRand: user, video, ms after `START`, clicked, tags; user, position, video.

    A clicked video is watched for long, video v is by author 9v and takes v seconds.
    """
    with lzma.open(directory / "impressions.tsv.xz", "wt", encoding="utf-8") as out:
        out.write(EXPOSURES_HEADER)
        out.writelines(
            f"{user}\t{video}\t{START + ms}\t{click}\t{click}\t77\t{1000 * video}\t{user % 5}\t9{video}\t{tag}\n"
            for user, video, ms, click, tag in impressions
        )
    with lzma.open(directory / "history.tsv.xz", "wt", encoding="utf-8") as out:
        out.write("user_id\tpos\tvideo_id\tlong_view_recon\n")
        out.writelines(f"{user}\t{position}\t{video}\t{video % 2}\n" for user, position, video in history)
    return directory
