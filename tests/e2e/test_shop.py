"""The demo's shop: a person plays a user in a real browser, and the list follows what they click."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.schema.events import decode_behavior, decode_click, decode_impression
from stream.schema.topics import Topics
from stream.simulation.config import WorldConfig
from stream.simulation.shop.files import write_catalogue, write_page
from stream.simulation.world import World
from tests.e2e.browser import Browser, opened
from tests.e2e.harness import Harness, wait_for
from tests.e2e.http_gateway import HttpGateway

SLOTS = 5
SHOWN = "[...document.querySelectorAll('#shown li')].map((line) => line.querySelectorAll('span')[1].firstChild.data)"


@pytest.fixture
def harness(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Iterator[Harness]:
    with Harness(kafka, topics, topic_prefix, tmp_path) as harness:
        yield harness


def text(browser: Browser, name: str) -> Any:
    return browser.evaluate(f"document.getElementById('{name}').textContent")


def test_a_person_sees_a_ranked_list_clicks_and_sees_it_follow(harness: Harness, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    write_page(folder)
    gateway = HttpGateway(harness, f"gateway.pages={folder}", "gateway.deadline_s=20")
    harness.processes.start("trainer", "trainer")
    harness.start_worker("worker")
    with opened(f"{gateway.url}/pages/", tmp_path / "profile") as browser:
        assert gateway.get("/pages/catalogue.json").status == 404
        write_catalogue(
            folder, World(WorldConfig(users=5, history=5), seed=1, start=1000 * int(time.time())), slots=SLOTS
        )
        wait_for(lambda: len(browser.evaluate(SHOWN)) == SLOTS, "a list", processes=harness.processes)
        user = text(browser, "user")
        assert text(browser, "arm") in ("sam", "counts")
        assert text(browser, "seen") == "0"
        first = browser.evaluate(SHOWN)
        browser.evaluate("document.querySelector('#shown button').click()")
        wait_for(lambda: text(browser, "seen") == "1", "the click to be known", processes=harness.processes)
        assert text(browser, "done").startswith(first[0])
        assert first[0] in text(browser, "why") or text(browser, "arm") == "counts"
        assert text(browser, "changed").endswith("of 30")
        # A second later it asks once more, when the model has learned.
        wait_for(lambda: len(harness.read(harness.topics.impressions)) == 3, "three lists", processes=harness.processes)
        wait_for(lambda: len(harness.read(harness.topics.scores)) == 3, "three answers", processes=harness.processes)
        assert not text(browser, "trouble")
    impressions = [decode_impression(value) for value in harness.read(harness.topics.impressions)]
    assert {each.user for each in impressions} == {user}
    assert len({tuple(each.candidates) for each in impressions}) == 1
    sold = msgspec.json.decode((folder / "catalogue.json").read_bytes())
    assert {each.item for each in impressions[0].candidates} <= {each["item"] for each in sold["items"]}
    [click] = [decode_click(value) for value in harness.read(harness.topics.clicks)]
    [behavior] = [decode_behavior(value) for value in harness.read(harness.topics.behaviors)]
    assert (click.user, click.item, behavior.item) == (user, first[0], first[0])
    assert click.request_id == impressions[0].request_id
