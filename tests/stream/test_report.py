"""Reports hold what they promise, say no more than is known, and need no other file."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream.report.data import (
    ArmTrace,
    DemoReport,
    DemoTrace,
    RatePoint,
    ReplayArm,
    ReplayReport,
    ReplayTrace,
)
from stream.report.report import write_demo, write_replay
from stream.report.style import PALETTE, colours
from stream.report.summary import arm_result, replay_trace, spread, this_machine, verdict
from stream.report.words import demo_headline, replay_headline, verdict_lines

PNG = b"\x89PNG\r\n\x1a\n"


def arm_trace(rate: float, *, seed: int, impressions: int = 400) -> ArmTrace:
    rng = np.random.default_rng(seed)
    clicks = rng.binomial(10, rate, impressions)
    return ArmTrace(
        at=np.sort(rng.uniform(0, 60, impressions)).tolist(),
        users=(1000 * seed + rng.integers(80, size=impressions)).tolist(),
        shown=[10] * impressions,
        clicks=clicks.tolist(),
        losses=(3 + rng.normal(size=impressions)).tolist(),
        floor=[2.5] * impressions,
        best=[4.0] * impressions,
        random=[0.5] * impressions,
        epoch=1,
        version=9,
    )


def demo(arms: dict[str, ArmTrace]) -> tuple[DemoReport, DemoTrace]:
    latency = [(at / 10, 20.0 + at % 7) for at in range(600)]
    freshness = [(at / 10, 1.0 + at % 3) for at in range(10, 600)]
    trace = DemoTrace(
        arms=arms,
        latency=latency,
        freshness=freshness,
        rates=[RatePoint(at=float(at), events=200.0, scores=40.0, samples=380.0) for at in range(60)],
    )
    report = DemoReport(
        title="samstream demo",
        seconds=60.0,
        impressions=sum(len(arm.at) for arm in arms.values()),
        scores=sum(len(arm.at) for arm in arms.values()),
        clicks=sum(sum(arm.clicks) for arm in arms.values()),
        behaviors=5000,
        samples_trained=8000,
        dead_letters=0,
        latency_ms=spread([ms for _, ms in latency]),
        freshness_s=spread([s for _, s in freshness]),
        arms={name: arm_result(arm) for name, arm in arms.items()},
        verdict=verdict(arms, dict.fromkeys(arms, 1.0)),
        machine=this_machine(),
        settings={"users": 50},
    )
    return report, trace


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report") / "made" / "here"
    write_demo(directory, *demo({"sam": arm_trace(0.3, seed=0), "din-50": arm_trace(0.2, seed=1)}))
    return directory


def test_json_has_what_a_reader_relies_on(written: Path) -> None:
    report = json.loads((written / "report.json").read_text())
    assert {"impressions", "scores", "clicks", "samples_trained", "dead_letters"} <= report.keys()
    assert report["latency_ms"].keys() == report["freshness_s"].keys() == {"p50", "p99"}
    for arm in report["arms"].values():
        assert {"impressions", "clicks", "ctr", "ctr_low", "ctr_high", "log_loss"} <= arm.keys()
        assert arm["ctr_low"] < arm["ctr"] < arm["ctr_high"]
        assert arm["ctr"] == arm["clicks"] / arm["shown"]
    assert report["clicks"] == sum(arm["clicks"] for arm in report["arms"].values())
    assert msgspec.convert(report, DemoReport).arms["sam"].impressions == 400


def test_series_can_be_read_back(written: Path) -> None:
    trace = msgspec.json.decode((written / "series.json").read_bytes(), type=DemoTrace)
    assert sum(trace.arms["sam"].clicks) == json.loads((written / "report.json").read_text())["arms"]["sam"]["clicks"]


def test_page_needs_nothing_but_itself(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert "sam click rate" in page
    pictures = re.findall(r'src="([^"]*)"', page)
    assert len(pictures) == 5
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert not re.search(r"https?://|<link|<script|@import|url\(", page)
    assert "This is a simulation" in page


def test_every_picture_lies_beside_the_page(written: Path) -> None:
    names = {"ctr", "log_loss", "latency", "freshness", "throughput"}
    assert {path.stem for path in written.glob("*.png")} == names
    assert all((written / f"{name}.png").read_bytes().startswith(PNG) for name in names)


def test_arm_names_are_text_and_never_markup(tmp_path: Path) -> None:
    page = write_demo(tmp_path, *demo({"<b>sam</b>": arm_trace(0.3, seed=0, impressions=30)})).read_text()
    assert "<b>sam</b>" not in page
    assert "&lt;b&gt;sam&lt;/b&gt;" in page


def test_results_are_sums_and_truth_may_be_unknown() -> None:
    trace = ArmTrace(at=[1.0, 2.0], users=[1, 2], shown=[10, 5], clicks=[3, 0], losses=[4.0, 2.0], best=[4.0, 2.0])
    result = arm_result(trace)
    assert (result.impressions, result.shown, result.clicks) == (2, 15, 3)
    assert result.ctr == 0.2
    assert result.log_loss == pytest.approx(0.4)
    assert result.ctr_best == pytest.approx(0.4)
    assert math.isnan(result.ctr_random)
    assert math.isnan(result.log_loss_floor)


def test_a_demo_in_which_nothing_happened_is_still_reported(tmp_path: Path) -> None:
    nothing = ArmTrace(at=[], users=[], shown=[], clicks=[], losses=[])
    trace = DemoTrace(arms={"sam": nothing}, latency=[], freshness=[], rates=[])
    report, _ = demo({"sam": nothing})
    report = msgspec.structs.replace(report, latency_ms=spread([]), freshness_s=spread([]))
    page = write_demo(tmp_path, report, trace).read_text()
    assert "Nothing was shown" in page
    assert json.loads((tmp_path / "report.json").read_text())["latency_ms"] == {"p50": None, "p99": None}


def test_every_pair_is_compared_the_best_first() -> None:
    arms = {"a": arm_trace(0.2, seed=0), "b": arm_trace(0.3, seed=1), "c": arm_trace(0.1, seed=2)}
    found = verdict(arms, dict.fromkeys(arms, 1.0))
    assert [(pair.arm, pair.against) for pair in found.pairs] == [("b", "a"), ("b", "c"), ("a", "c")]
    assert found.pairs[0].lift.value == pytest.approx(0.5, abs=0.15)
    assert found.winner == "b"
    lines = verdict_lines(found)
    assert len(lines) == 3
    assert lines[0].startswith("b against a: +")


def test_arms_whose_shares_nobody_has_told_are_compared_and_not_counted() -> None:
    arms = {"a": arm_trace(0.2, seed=0), "b": arm_trace(0.3, seed=1)}
    assert verdict(arms, {"sam": 1.0}).winner == "b"
    assert verdict(arms, {"a": 9.0, "b": 1.0}).winner is None


def headline(first: float, second: float, impressions: int = 400) -> str:
    report, _ = demo(
        {
            "sam": arm_trace(first, seed=0, impressions=impressions),
            "din-50": arm_trace(second, seed=1, impressions=impressions),
        }
    )
    return demo_headline(report)


def test_headline_claims_no_more_than_the_verdict() -> None:
    clear, unclear = headline(0.3, 0.2), headline(0.2, 0.2)
    said = r"sam wins: sam click rate \d+\.\d% vs din-50 \d+\.\d%, \+\d+% \(any time: \+\d+% to \+\d+%\)"
    assert re.fullmatch(said, clear)
    assert unclear.startswith("No winner yet: ")
    assert unclear.endswith("which may be chance")


def test_too_few_users_give_rates_and_no_verdict() -> None:
    few = headline(0.9, 0.1, impressions=40)
    assert re.match(r"Click rate: sam 8\d\.\d%, din-50 1\d\.\d%\. No verdict: sam has \d\d users", few)


def test_an_effect_that_is_not_steady_is_told_below_the_headline(tmp_path: Path) -> None:
    late = arm_trace(0.2, seed=1)
    rising = [round(3 * at / 60) for at in late.at]
    report, trace = demo(
        {
            "sam": msgspec.structs.replace(late, clicks=[1 + more for more in rising], users=late.users),
            "din-50": arm_trace(0.15, seed=2),
        }
    )
    page = write_demo(tmp_path, report, trace).read_text()
    assert "Note: the lift of sam over din-50 changes" in page


def replay(arms: dict[str, ReplayArm]) -> ReplayReport:
    return ReplayReport(
        title="samstream replay",
        dataset="complete-journey",
        seconds=300.0,
        behaviors=1000,
        impressions=100,
        clicks=50,
        judged="the last 60% of the impressions",
        dead_letters=0,
        arms=arms,
        machine=this_machine(),
        settings={},
    )


def replay_arm(auc: float) -> ReplayArm:
    return ReplayArm(samples=400, positives=80, auc=auc, gauc=auc, ne=0.8, log_loss=0.4, calibration=1.0)


def test_replay_report(tmp_path: Path) -> None:
    curve = ReplayTrace(samples=[100, 200], auc=[0.6, 0.7], ne=[0.9, math.nan])
    report = replay({"sam": replay_arm(0.77), "counts": replay_arm(0.79)})
    page = write_replay(tmp_path, report, {"sam": curve, "counts": curve}).read_text()
    assert "counts ranks best: AUC 0.790, against sam 0.770" in page
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["seconds"] == 300
    assert saved["arms"]["sam"].keys() == {
        "samples", "positives", "auc", "gauc", "ne", "log_loss", "calibration",
    }  # fmt: skip
    assert {path.name for path in tmp_path.glob("*.png")} == {"auc.png", "ne.png"}
    assert replay_headline(replay({"sam": replay_arm(math.nan)})).startswith("Nothing was judged")


def test_replay_trace_judges_each_window_by_itself() -> None:
    labels = np.array([0, 1] * 100, dtype=np.uint8)
    predictions = np.where(np.arange(200) < 100, 0.5, np.where(labels > 0, 0.9, 0.1)).astype(np.float32)
    curve = replay_trace(labels, predictions, windows=2)
    assert curve.samples == [100, 200]
    assert curve.auc == pytest.approx([0.5, 1.0])
    assert curve.ne == pytest.approx([1.0, -math.log(0.9) / math.log(2)], abs=1e-6)
    assert replay_trace(labels[:3], predictions[:3]).samples == [1, 2, 3]


def test_arms_keep_their_own_colours() -> None:
    names = [f"arm {place}" for place in range(len(PALETTE))]
    assert len(set(colours(names).values())) == len(names)
    assert len(colours([*names, "one more"])) == len(names) + 1


def test_matplotlib_waits_until_a_picture_is_drawn() -> None:
    code = "import sys, stream.report.report; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
