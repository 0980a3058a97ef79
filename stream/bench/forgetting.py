"""`bench forgetting`: how well a model ranks real visits when its tables forget, against one that forgets nothing."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from model.device import configure_torch
from model.learner import Learner
from model.spec import OptimSpec, preset
from stream.datasets import open_dataset
from stream.datasets.base import advised_features
from stream.report.findings import Findings, Target
from stream.report.plots.figure import PALETTE, QUIET, picture
from stream.schema.features import NO_FEATURES, FeatureSchema
from stream.validation.contest import WARM_UP, Contestant, contest, judge

_PRESET = "din-200"
"""Short histories: what a long one still reads never expires."""
_QUICK = 60
_WORSE = 0.001
_DAY_S = 86_400.0
_DEFAULT = "default: 90 days"
_RULES: Mapping[str, OptimSpec] = {
    "nothing is forgotten": OptimSpec(expire_after_s=0.0),
    _DEFAULT: OptimSpec(),
    "30 days": OptimSpec(expire_after_s=30 * _DAY_S),
    "7 days": OptimSpec(expire_after_s=7 * _DAY_S),
    "admitted at the second time": OptimSpec(expire_after_s=0.0, admit_after=2),
    "4,096 rows": OptimSpec(expire_after_s=0.0, max_rows=4096),
}


def run(arguments: argparse.Namespace, console: Console) -> Findings:
    """Let the same model go through the same visits under each rule, in turns."""
    dataset = open_dataset(arguments.dataset, arguments.data, seed=arguments.seed, negatives=arguments.negatives)
    visits = _QUICK if arguments.quick else dataset.totals.visits
    schema = FeatureSchema(advised_features(dataset)) if arguments.features else NO_FEATURES
    configure_torch(threads=1)
    spec = msgspec.structs.replace(preset(_PRESET), features=schema.features)
    learners = {rule: Learner(spec, optim, seed=arguments.seed) for rule, optim in _RULES.items()}
    contestants = {rule: Contestant(learner) for rule, learner in learners.items()}
    samples = contest(dataset, contestants, visits, console, schema)
    predicted = {rule: np.concatenate(contestant.predictions) for rule, contestant in contestants.items()}
    first, *_ = _RULES
    rows: list[dict[str, Any]] = [
        {
            "rule": rule,
            "AUC": round(found.auc, 5),
            f"AUC less that of '{first}'": round(found.ahead, 5),
            "±": round(found.ahead_error, 5),
            "NE": round(found.ne, 5),
            "rows": sum(learners[rule].rows.values()),
            **{event: _total(learners[rule], event) for event in ("admitted", "refused", "expired", "evicted")},
        }
        for rule, found in judge(samples, predicted, first).items()
    ]
    by_rule = {row["rule"]: row for row in rows}
    lost = by_rule[first]["AUC"] - by_rule[_DEFAULT]["AUC"]
    notes = [
        f"{dataset.name}, {visits:,} visits, of which the last {1 - WARM_UP:.0%} are judged; preset {_PRESET};"
        " rows and what became of keys: of all tables together, at the end",
        f"± is a standard error over {len(np.unique(samples.users))} users, of differences paired",
    ]
    target = Target("AUC that the default loses", lost, "", _WORSE)
    return Findings({"results": rows}, lambda: _picture(rows), [target], notes)


def _total(learner: Learner, event: str) -> int:
    return sum(counts.get(event, 0) for counts in learner.key_counts.values())


def _picture(rows: Sequence[Mapping[str, Any]]) -> bytes:
    most = rows[0]["rows"]
    by_rule = {row["rule"]: row for row in rows}
    difference = next(key for key in rows[0] if key.startswith("AUC less"))
    default = by_rule[_DEFAULT]
    title = f"The default keeps {default['rows'] / most:.0%} of the rows, for {default[difference]:+.5f} in AUC"
    subtitle = "difference in AUC from a model that forgets nothing; bars: 2 standard errors; beside: share of its rows"
    with picture(title, subtitle, height=0.42 * len(rows) + 2.0) as (axes, save):
        for place, row in enumerate(reversed(rows)):
            colour = PALETTE[0] if row["rule"] == _DEFAULT else QUIET
            axes.errorbar(row[difference], place, xerr=2 * row["±"], fmt="o", color=colour, capsize=3)
            axes.annotate(
                f"{row['rule']}, {row['rows'] / most:.0%}",
                (row[difference] + 2 * row["±"], place),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                color=colour,
            )
        low, high = axes.get_xlim()
        axes.set_xlim(low, high + 0.2 * (high - low))  # room for the names
        axes.set_yticks([])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel("AUC less that of a model that forgets nothing")
        return save()
