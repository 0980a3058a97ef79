"""The benchmarks of running systems and of their parts run, and measure what they claim."""

import argparse
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest
from rich.console import Console

from state.behavior import behaviors
from stream.bench import cost, counting, freshness, gateway, latency, state, sync, tables, volume
from stream.bench.counting import Point
from stream.bench.harness.examples import example
from stream.bench.harness.load import LoadResult, TimedAnswer
from stream.bench.harness.step_clock import STEPS
from stream.errors import StreamError
from stream.local import system
from stream.local.broker import Broker
from stream.schema.dedup import RecentIds
from stream.schema.events import Spent, decode_sample
from stream.schema.update_headers import UpdateHeaders
from stream.trainer.examples import unpack_sample
from tests.e2e.forked import ForkedProcesses

PNG = b"\x89PNG"
QUIET = Console(file=io.StringIO())
RARE = {
    "worker": (),
    "trainer": ("decode", "collate", "tables", "predict", "forward", "backward", "step", "publish", "checkpoint"),
}
"""Steps that need not come in the two seconds of a quick run: samples come by the batch."""


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have jobs start as forks: here a bench is to be seen working."""
    for module in (system, counting):
        monkeypatch.setattr(module, "Processes", ForkedProcesses)


def quick(broker: str = "embedded") -> argparse.Namespace:
    return argparse.Namespace(quick=True, broker=broker)


def answered(due: float, received: float, version: int = 0) -> TimedAnswer:
    return TimedAnswer(due, received, (1, version), Spent(2.0, 0.5, 4.0))


def announced(version: int, *clicks: int) -> UpdateHeaders:
    return UpdateHeaders("sam", "delta", 1, version, 0, clicks)


def test_latency_counts_from_when_the_request_was_due() -> None:
    late = answered(10.0, 10.030)
    assert late.latency_ms == pytest.approx(30)
    assert latency.latency_parts(late) == pytest.approx((23.5, 2.0, 0.5, 4.0))


def test_a_request_without_an_answer_counts_as_the_time_until_it_was_given_up() -> None:
    row = latency.summary_row(5.0, [[answered(0, 0.01), answered(1, 1.01), TimedAnswer(2, 12)]])
    assert row["unanswered"] == 1
    assert row["p50, ms"] == pytest.approx(10)
    assert (row["p99, ms"] or 0) > 9_000


def test_a_click_is_learned_with_the_first_answer_of_its_version() -> None:
    answers = [answered(0, 5.0, 3), answered(0, 6.0, 4), answered(0, 7.0, 6), answered(0, 8.0, 5)]
    news = [announced(4, 4_000, 4_500), announced(5, 6_500), announced(7, 6_900)]
    assert freshness.click_ages(answers, news) == pytest.approx([2.0, 1.5, 0.5])


def test_a_request_that_was_given_up_is_no_answer() -> None:
    assert freshness.click_ages([TimedAnswer(0, 5.0, (1, 9))], [announced(1, 1_000)]) == []


def test_the_benches_of_parts_run() -> None:
    for bench in (sync, state):
        findings = bench.run(quick(), QUIET)
        assert findings.tables["results"]
        assert all(target.value is not None for target in findings.targets)
        assert findings.picture().startswith(PNG)


@pytest.mark.slow
def test_the_bench_of_tables_runs_and_tables_that_forget_have_few_rows() -> None:
    findings = tables.run(quick(), QUIET)
    never, expires, full = findings.tables["results"]
    assert never["most rows"] > 19_000
    assert expires["most rows"] < 1_500
    assert full["most rows"] == 1_000
    assert expires["expired"] > 18_000 < full["evicted"]
    assert all(row["trainer, MB"] > 0 < row["worker, MB"] for row in findings.tables["results"])
    assert findings.picture().startswith(PNG)


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_the_bench_of_latency_runs(broker: Broker) -> None:
    findings = latency.run(quick(broker.bootstrap), QUIET)
    assert [row["requests a second"] for row in findings.tables["results"]] == [20, 40]
    assert all(
        row["answers"] == rate and not row["unanswered"]
        for row, rate in zip(findings.tables["results"], (20, 40), strict=True)
    )
    assert findings.picture().startswith(PNG)


@pytest.mark.slow
def test_the_bench_of_cost_splits_what_worker_and_trainer_spend(broker: Broker) -> None:
    findings = cost.run(quick(broker.bootstrap), QUIET)
    rows = findings.tables["results"]
    for command in STEPS:
        spent = {row["step"]: row["CPU ms"] for row in rows if row["process"] == command}
        assert all(spent[step] > 0 for step in STEPS[command] if step not in RARE[command]), spent
        assert sum(spent.values()) - spent["all"] == pytest.approx(spent["all"])
    assert findings.picture().startswith(PNG)


def test_cost_is_the_cpu_time_of_a_span_by_the_impressions_answered_in_it() -> None:
    readings = [cost.Reading(at, {"decode": 0.001 * at, "all": 0.01 * at}) for at in (10, 20, 40)]
    decode, together = cost.cost_rows("worker", readings, [5, 11, 12, 21, 22, 23, 24, 41])
    assert decode == {"process": "worker", "step": "decode", "CPU ms": 5, "least": 5, "most": 5}
    assert together["CPU ms"] == pytest.approx(50)


def test_where_the_load_stalls_there_is_a_span_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stalled:
        def run(self, _rate: float, _seconds: float, check: Callable[[], None]) -> LoadResult:
            check()  # the first after the warm-up, and the last
            return LoadResult([answered(0.0, 9.0)])

    @contextmanager
    def loaded(*_: object, **__: object) -> Iterator[tuple[object, Stalled]]:
        yield SimpleNamespace(check=lambda: None, processes=SimpleNamespace(pid=lambda _: os.getpid())), Stalled()

    monkeypatch.setattr(cost, "loaded_system", loaded)
    monkeypatch.setattr(cost, "read_steps", lambda _, command: dict.fromkeys(STEPS[command], 0.0))
    monkeypatch.setattr(cost, "time", SimpleNamespace(time=count(0, 2).__next__))
    rows = cost.run(quick(), QUIET).tables["results"]
    assert {row["process"] for row in rows if row["CPU ms"] >= 0} == set(STEPS)


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_the_bench_of_the_gateway_runs(broker: Broker) -> None:
    pytest.importorskip("litestar", reason="litestar is not installed: pip install -e '.[gateway]'")
    findings = gateway.run(quick(broker.bootstrap), QUIET)
    assert [(row["requests a second"], row["unanswered"]) for row in findings.tables["results"]] == [(20, 0), (40, 0)]
    assert findings.targets[0].value is not None
    assert findings.picture().startswith(PNG)


def test_what_http_adds_is_the_median_of_the_differences_within_rounds() -> None:
    row = gateway.summary_row(5.0, [((10, 20), (12, 25)), ((30, 40), (31, 90)), ((50, 60), (60, 61))], 2)
    assert (row["Kafka client, p50, ms"], row["HTTP, p99, ms"]) == (30, 61)
    assert (row["HTTP adds, p50, ms"], row["HTTP adds, p99, ms"], row["unanswered"]) == (2, 5, 2)


def test_rates_of_learning_are_those_between_the_warm_up_and_the_last_sample() -> None:
    went = [Point(1.0, 0, 0), Point(2.0, 200, 50), Point(4.0, 600, 250), Point(9.0, 1000, 900)]
    assert counting.rates_between(went, 1000) == pytest.approx((200, 100))
    with pytest.raises(StreamError, match="too few"):
        counting.rates_between(went, 300)


def test_samples_that_repeat_an_item_count_as_the_trainer_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "example", partial(example, items=20))
    given = counting.work(5)
    seen = RecentIds(1000)
    learned = [unpack_sample(decode_sample(sample), behaviors([]), seen) for _, _, sample in given.samples]
    assert given.total == sum(len(each.features.items) for each in learned if each)
    assert given.total < 50


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_the_bench_of_counting_runs(broker: Broker) -> None:
    findings = counting.run(quick(broker.bootstrap), QUIET)
    alone, beside = findings.tables["results"]
    assert alone["behaviours/s"] == 0
    assert (beside["behaviours/s"] or 0) > 1000
    assert all((row["samples/s"] or 0) > 0 for row in (alone, beside))
    assert findings.picture().startswith(PNG)


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_the_bench_of_volume_counts_what_each_topic_holds(broker: Broker) -> None:
    findings = volume.run(quick(broker.bootstrap), QUIET)
    rows = {row["topic"]: row for row in findings.tables["results"]}
    counts = {topic: row["records an impression"] for topic, row in rows.items() if topic != "model-updates"}
    none = {"experiment-metrics": 0, "experiment-shares": 0, "dead-letters": 0, "erasures": 0}
    assert counts == {"behaviors": 3, "impressions": 1, "clicks": 3, "scores": 1, "samples": 4, "outcomes": 4} | none
    [target] = findings.targets
    assert target.value == rows["samples"]["bytes an impression"]
    assert 500 < (target.value or 0) <= 1024, "names are of one size, whatever the length of the history"
    assert findings.picture().startswith(PNG)


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_the_bench_of_freshness_runs(broker: Broker) -> None:
    findings = freshness.run(quick(broker.bootstrap), QUIET)
    assert (findings.tables["results"][0]["clicks"] or 0) > 10
    assert findings.picture().startswith(PNG)
