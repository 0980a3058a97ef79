"""KuaiRand as a stream: its lines as impressions with true clicks, its histories before them."""

import lzma
from pathlib import Path

import pytest

from stream.datasets import open_dataset
from stream.datasets.base import DatasetError, DatasetTotals, Observation, Visit
from stream.schema.events import Behavior, Candidate, Click, Impression

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "kuairand_pure"
HOUR = 3_600_000
START = 1_650_000_000_000


def write(
    directory: Path, impressions: list[tuple[int, int, int, int, str]], history: list[tuple[int, int, int]]
) -> Path:
    with lzma.open(directory / "impressions.tsv.xz", "wt", encoding="utf-8") as out:
        out.write("user_id\tvideo_id\ttime_ms\tis_click\ttab\ttag\n")
        out.writelines(
            f"{user}\t{video}\t{START + ms}\t{click}\t1\t{tag}\n" for user, video, ms, click, tag in impressions
        )
    with lzma.open(directory / "history.tsv.xz", "wt", encoding="utf-8") as out:
        out.write("user_id\tpos\tvideo_id\tlong_view_recon\n")
        out.writelines(f"{user}\t{position}\t{video}\t0\n" for user, position, video in history)
    return directory


def test_histories_come_first_and_lines_of_one_moment_are_one_impression(tmp_path: Path) -> None:
    impressions = [
        (7, 100, 0, 1, "39"),
        (8, 101, 5, 0, "12,3"),
        (7, 102, 5, 0, "unknown"),
        (8, 100, 5, 1, "39"),
        (8, 101, 5, 0, "12,3"),
    ]
    history = [(7, 0, 101), (7, 1, 555), (8, 0, 100)]
    dataset = open_dataset("kuairand", write(tmp_path, impressions, history))

    assert list(dataset.steps()) == [
        Observation((Behavior("7", "101", START - 12 * HOUR, "12", "view"),)),
        Observation((Behavior("7", "555", START - 6 * HOUR, "", "view"),)),
        Observation((Behavior("8", "100", START - 6 * HOUR, "39", "view"),)),
        Visit(
            Impression(f"kr-7-{START}", "7", START, [Candidate("100", "39")], slots=1),
            (Click(f"kr-7-{START}", "7", "100", START),),
            (Behavior("7", "100", START, "39", "click"),),
        ),
        Visit(
            Impression(f"kr-7-{START + 5}", "7", START + 5, [Candidate("102")], slots=1),
            (),
            (Behavior("7", "102", START + 5, "", "skip"),),
        ),
        Visit(
            Impression(f"kr-8-{START + 5}", "8", START + 5, [Candidate("101", "12"), Candidate("100", "39")], slots=2),
            (Click(f"kr-8-{START + 5}", "8", "100", START + 5),),
            (
                Behavior("8", "101", START + 5, "12", "skip"),
                Behavior("8", "100", START + 5, "39", "click"),
            ),
        ),
    ]
    assert dataset.totals == DatasetTotals(behaviors=7, visits=3, samples=4, positives=2)


@pytest.mark.filterwarnings("ignore:loadtxt")
def test_a_repeated_line_is_clicked_when_any_of_its_kind_is(tmp_path: Path) -> None:
    for lines in ([0, 1], [1, 0]):
        impressions = [(7, 100, 0, click, "39") for click in lines]
        dataset = open_dataset("kuairand", write(tmp_path, impressions, []))
        assert dataset.totals == DatasetTotals(behaviors=1, visits=1, samples=1, positives=1)


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="--data DIR"):
        open_dataset("kuairand")
    with pytest.raises(DatasetError, match=r"no impressions\.tsv\.xz and no history\.tsv\.xz"):
        open_dataset("kuairand", tmp_path)
    with pytest.raises(DatasetError, match="no impressions"):
        open_dataset("kuairand", write(tmp_path, [], [(7, 0, 1)]))
    header = b"user_id\tvideo_id\ttime_ms\tis_click\ttag\n"
    for content in (b"plain", b"", header[:20], header + b"1\t2\n", header + b"1\t2\t3\tyes\t39\n"):
        packed = content if content == b"plain" else lzma.compress(content)
        (tmp_path / "impressions.tsv.xz").write_bytes(packed)
        with pytest.raises(DatasetError, match="not a KuaiRand folder"):
            open_dataset("kuairand", tmp_path)


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
