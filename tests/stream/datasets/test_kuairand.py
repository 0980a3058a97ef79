"""KuaiRand as a stream: its lines as impressions with true clicks, its histories before them."""

import lzma
from pathlib import Path

import pytest
from msgspec import Raw

from stream.datasets import open_dataset
from stream.datasets.base import DatasetError, DatasetTotals, Observation, Visit
from stream.schema.events import Behavior, Candidate, Click, Impression
from tests.stream.datasets.support import EXPOSURES_HEADER, START, packed, write_exposures

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "kuairand_pure"
HOUR = 3_600_000


def video_features(video: int, *tags: str) -> str:
    shown = ",".join(f'"{tag}"' for tag in tags)
    return f'"author":"9{video}","tags":[{shown}],"duration_s":{video}.0'


def behavior(user: int, video: int, ms: int, tag: str, action: str, own: str, *, long_view: int) -> Behavior:
    opened = f"{own}," if own else ""
    features = Raw(f'{{{opened}"long_view":{long_view}}}'.encode())
    return Behavior(f"{user}", f"{video}", START + ms, tag, action, features)


def impression(user: int, ms: int, candidates: list[Candidate]) -> Impression:
    # 2022-04-15, 05:20 UTC; 13:20 in China.
    features = Raw(f'{{"hour":13,"tab":"{user % 5}"}}'.encode())
    return Impression(
        f"kr-{user}-{START + ms}", f"{user}", START + ms, candidates, slots=len(candidates), features=features
    )


def test_histories_come_first_and_lines_of_one_moment_are_one_impression(tmp_path: Path) -> None:
    impressions = [
        (7, 100, 0, 1, "39"),
        (8, 101, 5, 0, "12,3"),
        (7, 102, 5, 0, "unknown"),
        (8, 100, 5, 1, "39"),
        (8, 101, 5, 0, "12,3"),
    ]
    history = [(7, 0, 101), (7, 1, 555), (8, 0, 100)]
    dataset = open_dataset("kuairand", write_exposures(tmp_path, impressions, history))

    first, second, third = video_features(100, "39"), video_features(101, "12", "3"), video_features(102)
    candidates = [
        Candidate("100", "39", Raw(f"{{{first}}}".encode())),
        Candidate("101", "12", Raw(f"{{{second}}}".encode())),
        Candidate("102", "", Raw(f"{{{third}}}".encode())),
    ]
    assert list(dataset.steps()) == [
        Observation((behavior(7, 101, -12 * HOUR, "12", "view", second, long_view=1),)),
        Observation((behavior(7, 555, -6 * HOUR, "", "view", "", long_view=1),)),
        Observation((behavior(8, 100, -6 * HOUR, "39", "view", first, long_view=0),)),
        Visit(
            impression(7, 0, candidates[:1]),
            (Click(f"kr-7-{START}", "7", "100", START),),
            (behavior(7, 100, 0, "39", "click", first, long_view=1),),
        ),
        Visit(impression(7, 5, candidates[2:]), (), (behavior(7, 102, 5, "", "skip", third, long_view=0),)),
        Visit(
            impression(8, 5, [candidates[1], candidates[0]]),
            (Click(f"kr-8-{START + 5}", "8", "100", START + 5),),
            (
                behavior(8, 101, 5, "12", "skip", second, long_view=0),
                behavior(8, 100, 5, "39", "click", first, long_view=1),
            ),
        ),
    ]
    assert dataset.totals == DatasetTotals(behaviors=7, visits=3, samples=4, positives=2)


@pytest.mark.filterwarnings("ignore:loadtxt")
def test_a_repeated_line_is_clicked_when_any_of_its_kind_is(tmp_path: Path) -> None:
    for lines in ([0, 1], [1, 0]):
        impressions = [(7, 100, 0, click, "39") for click in lines]
        dataset = open_dataset("kuairand", write_exposures(tmp_path, impressions, []))
        assert dataset.totals == DatasetTotals(behaviors=1, visits=1, samples=1, positives=1)


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="--data DIR"):
        open_dataset("kuairand")
    with pytest.raises(DatasetError, match=r"no impressions\.tsv\.xz and no history\.tsv\.xz"):
        open_dataset("kuairand", tmp_path)
    with pytest.raises(DatasetError, match="no impressions"):
        open_dataset("kuairand", write_exposures(tmp_path, [], [(7, 0, 1)]))
    header, line = EXPOSURES_HEADER.encode(), b"1\t2\t3\tyes\t0\t5\t5\t1\t9\t39\n"
    for content in (b"plain", b"", header[:20], header + b"1\t2\n", header + line):
        packed = content if content == b"plain" else lzma.compress(content)
        (tmp_path / "impressions.tsv.xz").write_bytes(packed)
        with pytest.raises(DatasetError, match="not a KuaiRand folder"):
            open_dataset("kuairand", tmp_path)


def test_what_an_outcome_tells_is_in_no_impression(tmp_path: Path) -> None:
    """Clicks and long views turned around: all that is asked stays, but for the behaviours before it."""
    asked = []
    for turned in (0, 1):
        lines = [(7, 100 + each, each, each % 2 ^ turned, "39") for each in range(6)]
        steps = open_dataset("kuairand", write_exposures(tmp_path, lines, [(8, 0, 1)])).steps()
        asked.append([step.impression for step in steps if isinstance(step, Visit)])
    assert len(asked[0]) == 6
    assert asked[0] == asked[1]


def test_its_events_fit_its_features(tmp_path: Path) -> None:
    impressions = [(7, 100, 0, 1, "39"), (8, 0, 5, 0, "unknown"), (8, 2, 9, 0, "1,2,3,4,5")]
    dataset = open_dataset("kuairand", write_exposures(tmp_path, impressions, [(7, 0, 555)]))
    schema = packed(dataset)
    # A video of no length has none, and of one that was never asked for nothing is known.
    assert schema.missing == {"duration_s": 1 + 1 + 1, "author": 1, "tags": 1}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the data are not at {SHARED}")
def test_the_real_log_comes_in_order_with_its_clicks() -> None:
    dataset = open_dataset("kuairand", SHARED)
    last = behaviors = samples = positives = 0
    requests: set[str] = set()
    for step in dataset.steps():
        ts = step.behaviors[0].ts
        assert ts >= last
        last = ts
        behaviors += len(step.behaviors)
        if isinstance(step, Visit):
            requests.add(step.impression.request_id)
            samples += len(step.impression.candidates)
            positives += len(step.clicks)
        else:
            assert not requests
    assert dataset.totals == DatasetTotals(behaviors, len(requests), samples, positives)
    assert (len(requests), samples, behaviors - samples) == (220_762, 222_444, 817_187)
    assert positives / samples == pytest.approx(0.4496, abs=1e-4)
