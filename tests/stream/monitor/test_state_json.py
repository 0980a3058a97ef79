"""The page shows what the report says: outcomes through the monitor's path give the report's timeline."""

import json

import numpy as np
import pytest

from stream.experiment.ledger import Ledger, ReadSummary
from stream.experiment.plan import Experiment
from stream.experiment.serving_cost import ServingCosts
from stream.monitor.aggregate import Aggregate
from stream.monitor.records import encode_json
from stream.monitor.web.state_json import state_json
from stream.report.live_report import live_report
from tests.stream.monitor.test_aggregate import PLAN, counted, settings, visits


@pytest.mark.long
def test_monitor_and_report_draw_the_same_curve_of_the_same_outcomes() -> None:
    rows = visits()
    aggregate, ledger = Aggregate(PLAN), Ledger()
    counted(aggregate, rows)
    aggregate.set_idle(True)
    for row in rows:
        ledger.add(0, row)
    state = json.loads(encode_json(state_json(aggregate, PLAN, settings("a", "b"), 0)))
    question = Experiment.of_settings(settings("a", "b"))
    report, _ = live_report(question, ledger, ServingCosts(), ReadSummary(), salt="s", settings={})
    course, spans = state["course"], report.over_time
    first = min(row.ts for row in rows)
    assert [(end - first) / 1000 for end in course["ends"][:-1]] == spans.edges[1:-1]
    assert course["rates"].keys() == spans.ctr.keys()
    for arm, rates in spans.ctr.items():
        np.testing.assert_allclose(numbers(course["rates"][arm]), rates, rtol=1e-9)
    [lift] = course["lifts"]
    assert (lift["arm"], [lift["against"]]) == (spans.leader, [*spans.lift])
    np.testing.assert_allclose(numbers(lift["lift"]), spans.lift[lift["against"]], rtol=1e-9)
    assert np.isnan(numbers(lift["lift"])[0]).all(), "few users have come by then"
    assert np.isfinite(numbers(lift["lift"])[-1]).all()


def numbers(intervals: list[list[float | None]]) -> np.ndarray:
    return np.array([[np.nan if each is None else each for each in interval] for interval in intervals])
