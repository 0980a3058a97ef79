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

from stream.errors import ReportError
from stream.experiment.plan import Experiment
from stream.replay.report import replay_trace
from stream.report.machine import this_machine
from stream.report.plots.figure import PALETTE, colours
from stream.report.schema import ArmTrace, ExperimentReport, RatePoint, ReplayArm, ReplayReport, ReplayTrace, Trace
from stream.report.sentences import headline, pair_lines, replay_headline
from stream.report.writer import write_experiment, write_replay
from stream.settings import ArmSettings
from stream.simulation.report import arm_result, simulation_report, sums_of_traces
from stream.simulation.traffic import TrafficTotals
from tests.small_disk import SmallDisk

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
        expected=[3.5 - seed] * impressions,
        latency=[20.0 + at % 7 for at in range(impressions)],
        cpu=[4.0 - seed] * impressions,
        epoch=1,
        version=9,
    )


def question(arms: dict[str, ArmTrace]) -> Experiment:
    return Experiment(name="long-history", arms=tuple(ArmSettings(name=name, preset="din-50") for name in arms))


def report_of(arms: dict[str, ArmTrace]) -> tuple[ExperimentReport, Trace]:
    totals = TrafficTotals(
        impressions=sum(len(arm.at) for arm in arms.values()),
        answered=sum(len(arm.at) for arm in arms.values()),
        clicks=sum(sum(arm.clicks) for arm in arms.values()),
        behaviors=5000,
        trained=8000,
        freshness=[(at / 10, 1.0 + at % 3) for at in range(10, 600)] if any(arm.at for arm in arms.values()) else [],
        arms=arms,
        versions={name: (arm.epoch, arm.version) for name, arm in arms.items()},
    )
    rates = [RatePoint(at=float(at), events=200.0, scores=40.0, samples=380.0) for at in range(60)]
    return simulation_report(question(arms), totals, rates, began=1e9, seconds=60.0, settings={"users": 50})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report") / "made" / "here"
    write_experiment(directory, *report_of({"sam": arm_trace(0.3, seed=0), "din-50": arm_trace(0.2, seed=1)}))
    return directory


@pytest.mark.long
def test_json_has_what_a_reader_relies_on(written: Path) -> None:
    report = json.loads((written / "report.json").read_text())
    assert {"impressions", "scores", "clicks", "samples_trained", "dead_letters"} <= report.keys()
    assert report["latency_ms"].keys() == report["freshness_s"].keys() == {"p50", "p99"}
    for arm in report["arms"].values():
        assert {"impressions", "clicks", "ctr", "ctr_low", "ctr_high", "log_loss"} <= arm.keys()
        assert arm["ctr_low"] < arm["ctr"] < arm["ctr_high"]
        assert arm["ctr"] == arm["clicks"] / arm["shown"]
    assert report["clicks"] == sum(arm["clicks"] for arm in report["arms"].values())
    known = json.loads((written / "report.json").read_text().replace("null", "NaN"))
    assert msgspec.convert(known, ExperimentReport).arms["sam"].impressions == 400


@pytest.mark.long
def test_the_numbers_on_the_page_are_those_of_the_json(written: Path) -> None:
    report = json.loads((written / "report.json").read_text())
    page = (written / "report.html").read_text()
    for name, arm in report["arms"].items():
        for said in (f"{100 * arm['ctr']:.1f}%", f"{arm['regret']:.2f}", f"{arm['cpu_s']:.2g} s", f"{arm['clicks']:,}"):
            assert f"<td>{said}" in page, (name, said)
    for check in report["checks"]:
        assert check["question"] in page
        assert check["answer"].split("'")[0] in page
    lift = report["verdict"]["pairs"][0]["lift"]
    assert all(f"{100 * value:+.0f}%" in page for value in lift)


def test_what_arms_are_and_how_sure_the_answer_is_are_part_of_it(written: Path) -> None:
    report = json.loads((written / "report.json").read_text())
    assert report["plan"]["sam"] == {"share": 0.5, "model": "din-50", "length": 50, "learns": "from its own users"}
    assert (report["alpha"], report["minimum_effect"], report["source"]) == (0.05, 0.05, "simulated")


def test_regret_and_cost_are_means_of_what_was_measured(written: Path) -> None:
    arms = json.loads((written / "report.json").read_text())["arms"]
    assert [arms[name]["regret"] for name in ("sam", "din-50")] == [pytest.approx(0.5), pytest.approx(1.5)]
    assert [arms[name]["cpu_s"] for name in ("sam", "din-50")] == [4.0, 3.0]
    assert arms["sam"]["latency_ms"]["p50"] == 23.0


def test_series_can_be_read_back(written: Path) -> None:
    trace = msgspec.json.decode((written / "series.json").read_bytes(), type=Trace)
    assert sum(trace.arms["sam"].clicks) == json.loads((written / "report.json").read_text())["arms"]["sam"]["clicks"]


def test_page_needs_nothing_but_itself(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert "sam wins" in page
    pictures = re.findall(r'src="([^"]*)"', page)
    assert len(pictures) == 7
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    assert not re.search(r"https?://|<link|<script|@import|url\(", page)
    assert "This is a simulation" in page


def test_every_picture_lies_beside_the_page(written: Path) -> None:
    names = {"ctr", "lift", "regret", "log_loss", "latency", "freshness", "throughput"}
    assert {path.stem for path in written.glob("*.png")} == names
    assert all((written / f"{name}.png").read_bytes().startswith(PNG) for name in names)


def test_arm_names_are_text_and_never_markup(tmp_path: Path) -> None:
    report, trace = report_of({"sam": arm_trace(0.3, seed=0, impressions=30)})
    renamed = {field: {"<b>sam</b>": value["sam"]} for field, value in (("arms", report.arms), ("plan", report.plan))}
    spans = msgspec.structs.replace(report.over_time, ctr={}, regret={}, log_loss={}, log_loss_floor={})
    report = msgspec.structs.replace(report, **renamed, over_time=spans)
    page = write_experiment(tmp_path, report, Trace(freshness=trace.freshness)).read_text()
    assert "<b>sam</b>" not in page
    assert "&lt;b&gt;sam&lt;/b&gt;" in page


def test_results_are_sums_and_truth_may_be_unknown() -> None:
    trace = ArmTrace(
        at=[1.0, 2.0], users=[1, 2], shown=[10, 5], clicks=[3, 0], losses=[4.0, 2.0], best=[4.0, 2.0],
        expected=[3.0, 1.0],
    )  # fmt: skip
    result = arm_result(trace)
    assert (result.users, result.impressions, result.shown, result.clicks) == (2, 2, 15, 3)
    assert result.ctr == 0.2
    assert result.log_loss == pytest.approx(0.4)
    assert result.ctr_best == pytest.approx(0.4)
    assert result.regret == 1.0
    assert math.isnan(result.ctr_random)
    assert math.isnan(result.log_loss_floor)
    assert math.isnan(result.latency_ms.p50)


def test_an_experiment_in_which_nothing_happened_is_still_reported(tmp_path: Path) -> None:
    report, trace = report_of({"sam": ArmTrace(), "din-50": ArmTrace()})
    page = write_experiment(tmp_path, report, msgspec.structs.replace(trace, rates=[])).read_text()
    assert "Nothing was shown" in page
    assert json.loads((tmp_path / "report.json").read_text())["latency_ms"] == {"p50": None, "p99": None}


@pytest.mark.long
@pytest.mark.parametrize("impressions", [1, 2, 5])
def test_of_next_to_no_impressions_there_is_a_report_as_well(tmp_path: Path, impressions: int) -> None:
    arms = {"sam": arm_trace(0.3, seed=0, impressions=impressions), "din-50": arm_trace(0.2, seed=1, impressions=1)}
    page = write_experiment(tmp_path, *report_of(arms)).read_text()
    assert "No verdict" in page
    assert (tmp_path / "ctr.png").read_bytes().startswith(PNG)


@pytest.mark.long
def test_a_report_replaces_the_pictures_of_the_one_before(tmp_path: Path) -> None:
    write_experiment(tmp_path, *report_of({"sam": arm_trace(0.3, seed=0), "din-50": arm_trace(0.2, seed=1)}))
    report, _ = report_of({"sam": ArmTrace(), "din-50": ArmTrace()})
    write_experiment(tmp_path, report, Trace())
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.long
def test_a_report_that_finds_no_room_says_where(small_disk: SmallDisk) -> None:
    small_disk.fill()
    with pytest.raises(ReportError, match=f"cannot be written to {small_disk.path}/report: .*No space left.*--report"):
        write_experiment(small_disk.path / "report", *report_of({"sam": arm_trace(0.3, seed=0)}))
    small_disk.make_room()
    assert write_experiment(small_disk.path / "report", *report_of({"sam": arm_trace(0.3, seed=0)})).is_file()


def test_every_pair_is_compared_the_best_first() -> None:
    arms = {"a": arm_trace(0.2, seed=0), "b": arm_trace(0.3, seed=1), "c": arm_trace(0.1, seed=2)}
    report, _ = report_of(arms)
    found = report.verdict
    assert [(pair.arm, pair.against) for pair in found.pairs] == [("b", "a"), ("b", "c"), ("a", "c")]
    assert found.pairs[0].lift.value == pytest.approx(0.5, abs=0.15)
    assert found.winner == "b"
    lines = pair_lines(found)
    assert len(lines) == 3
    assert lines[0].startswith("b against a: +")
    assert report.over_time.leader == "b"
    assert report.over_time.lift.keys() == {"a", "c"}


def test_arms_whose_shares_nobody_has_told_are_compared_and_not_counted() -> None:
    arms = {"a": arm_trace(0.2, seed=0), "b": arm_trace(0.3, seed=1)}
    other = Experiment(name="x", arms=(ArmSettings(name="sam"),))
    assert other.verdict(sums_of_traces(arms)).winner == "b"
    uneven = Experiment(name="x", arms=(ArmSettings(name="a", share=9), ArmSettings(name="b")))
    assert uneven.verdict(sums_of_traces(arms)).winner is None


def said(first: float, second: float, impressions: int = 400) -> str:
    report, _ = report_of(
        {
            "sam": arm_trace(first, seed=0, impressions=impressions),
            "din-50": arm_trace(second, seed=1, impressions=impressions),
        }
    )
    return headline(report)


def test_headline_claims_no_more_than_the_verdict() -> None:
    clear, unclear = said(0.3, 0.2), said(0.2, 0.2)
    assert re.fullmatch(r"sam wins: \+\d+% clicks against din-50 \(any time: \+\d+% to \+\d+%\)", clear)
    assert unclear.startswith("No winner yet: ")
    assert unclear.endswith("which may be chance")


def test_too_few_users_give_no_verdict_and_one_arm_its_rate() -> None:
    assert re.match(r"No verdict: sam has \d\d users", said(0.9, 0.1, impressions=40))
    report, _ = report_of({"sam": arm_trace(0.9, seed=0)})
    assert re.fullmatch(r"Click rate: sam 8\d\.\d%|Click rate: sam 9\d\.\d%", headline(report))


def test_the_lift_over_time_ends_with_that_of_the_verdict(written: Path) -> None:
    report = json.loads((written / "report.json").read_text())
    assert report["over_time"]["lift"]["din-50"][-1] == pytest.approx(report["verdict"]["pairs"][0]["lift"])
    spans = report["over_time"]
    assert len(spans["edges"]) == len(spans["ctr"]["sam"]) + 1
    users = len(set(arm_trace(0.3, seed=0).users))
    assert spans["regret"]["sam"][-1] == pytest.approx(400 * 0.5 / users)


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
    assert replay_headline(replay({"sam": replay_arm(math.nan)})).startswith("No sample was evaluated")


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


@pytest.mark.long
def test_matplotlib_waits_until_a_picture_is_drawn() -> None:
    code = "import sys, stream.report.writer; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
