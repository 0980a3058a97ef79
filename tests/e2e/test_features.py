"""Features of callers through the system: killed, learned as they were served, and changed between two lives."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from state.behavior import category_key, item_key
from state.feature_layout import parse_layout
from state.partition import Partition
from state.records import Records
from stream.schema.events import Candidate, RequestKey, decode_sample
from stream.schema.topics import Topics
from stream.settings import convert
from tests.e2e.harness import ITEMS, LENGTH, SLOTS, Harness, wait_for

FEATURES = {
    "price": {"of": "item", "kind": "number"},
    "brand": {"of": "item", "kind": "category"},
    "dwell": {"of": "behavior", "kind": "number"},
    "visit": {"of": "context", "kind": "number"},
    "tier": {"of": "user", "kind": "category", "default": "basic"},
}
CHANGED = {name: definition for name, definition in FEATURES.items() if name != "brand"} | {
    "weight": {"of": "item", "kind": "number"}
}
NUMBERS = {item_key(item): int(item.removeprefix("item-")) for item in ITEMS}


def of_item(item: str) -> dict[str, Any]:
    number = NUMBERS[item_key(item)]
    return {"price": number + 0.5, "brand": f"brand-{number % 7}", "weight": -number, "nobody's": 1}


class FeaturedHarness(Harness):
    """Users whose requests, candidates and behaviours have features."""

    def wander(self, count: int) -> None:
        for _ in range(count):
            item = self.random.choice(ITEMS)
            dwell = {"dwell": NUMBERS[item_key(item)] * 2}
            self.client.behavior(self.random.choice(self.users), item, features=of_item(item) | dwell)

    def ask(self, user: str | None = None) -> RequestKey:
        offered = [Candidate.of(item, features=of_item(item)) for item in self.random.sample(ITEMS, 8)]
        user = user or self.random.choice(self.users)
        self._visits[user] += 1
        visit = self._visits[user]
        features = {"visit": visit, "tier": f"tier-{user}" if visit % 2 else None}
        request = self.client.impression(user, offered, SLOTS, str(visit), features=features)
        self.asked.append(request)
        return request


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> FeaturedHarness:
    return FeaturedHarness(kafka, topics, topic_prefix, tmp_path, features=FEATURES)


def check_items(keys: list[int], records: Records) -> int:
    """See that features of items are theirs where they are known; returns of how many they are."""
    known = 0
    for key, record in zip(keys, records, strict=True):
        number, names = NUMBERS[key], record.dtype.names
        expected = {"price": number + 0.5, "weight": -number, "dwell": 2 * number}
        for name in expected.keys() & set(names):
            assert np.isnan(record[name]) or record[name] == expected[name]
        if "brand" in names:
            assert record["brand"] in (0, category_key(f"brand-{number % 7}"))
        known += not np.isnan(record["price"])
    return known


def check_samples(harness: Harness) -> Counter[str]:
    """See that samples have what was served; returns how many there are of each layout."""
    layouts: Counter[str] = Counter()
    for value in harness.read(harness.topics.samples):
        sample = decode_sample(value)
        layout = parse_layout(sample.layout)
        layouts[sample.layout] += 1
        [context] = np.frombuffer(sample.context, layout.context)
        visit = int(sample.request_id)
        assert context["visit"] == visit
        assert context["tier"] == category_key(f"tier-{sample.user}" if visit % 2 else "basic")
        keys = np.frombuffer(sample.items, "<u8").tolist()
        assert check_items(keys, np.frombuffer(sample.attributes, layout.item)) == len(keys)
    return layouts


def check_state(harness: Harness, features: dict[str, Any]) -> None:
    """See that the stored sequences have the features, those of the newest layout, of their items."""
    layout, known = convert({"features": features}).feature_layout.behavior, 0
    for path in sorted((harness.directory / "state").glob("partition-*")):
        partition = Partition.open(path, length=LENGTH, slack=harness.settings.state.slack)
        assert partition.sequences.record == layout
        for user in harness.users:
            sequence = partition.sequences.read(user)
            known += check_items(sequence["item"].tolist(), sequence)
        partition.close()
    assert known > 100


def told(harness: Harness, name: str) -> list[str]:
    lines = harness.processes.log(name).read_text().splitlines()
    return [line for line in lines if "features_changed" in line]


def flag(features: dict[str, dict[str, Any]]) -> str:
    tables = (
        f"{name} = {{{', '.join(f'{key} = {json.dumps(value)}' for key, value in definition.items())}}}"
        for name, definition in features.items()
    )
    return f"features={{{', '.join(tables)}}}"


def test_what_was_served_is_learned_whatever_is_killed_and_when_features_change(harness: FeaturedHarness) -> None:
    with harness:
        harness.processes.start("trainer", "trainer")
        harness.wander(300)
        harness.start_worker("worker-1", instance="one")
        harness.traffic(20)
        harness.replace_worker_after_an_answer("worker-1", "worker-2")
        wait_for(lambda: harness.trained() > 0, "a checkpoint of what was learned", processes=harness.processes)
        harness.end("trainer")
        # What is clicked from now on is in flight until a trainer of other features reads it; the rest is still open.
        harness.traffic(20)
        harness.end("worker-2")
        clicked = len(harness.clicked)
        assert harness.trained() < clicked
        for life in ("trainer", "worker-2"):
            assert told(harness, life) == []
        changed = ("--set", flag(CHANGED))
        harness.processes.start("trainer-2", "trainer", *changed)
        harness.start_worker("worker-3", *changed, instance="one")
        wait_for(lambda: harness.trained() >= clicked, "all in flight to be learned", processes=harness.processes)
        harness.traffic(20)
        harness.come_to_rest()
        assert harness.trained() == len(harness.shown())
        harness.check_samples()
        harness.check_answers()
        assert check_samples(harness).keys() == {
            convert({"features": features}).feature_layout.text for features in (FEATURES, CHANGED)
        }
        check_state(harness, CHANGED)
        assert sorted(line.partition("arm=")[2] for line in told(harness, "trainer-2")) == [
            f"{arm} added=weight removed=brand" for arm in ("counts", "sam")
        ]
        of_partitions = told(harness, "worker-3")
        assert len(of_partitions) == len({line for line in of_partitions if "dwell,price,weight" in line}) == 4
        assert harness.read(harness.topics.dead_letters) == []
