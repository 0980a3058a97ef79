"""The page of an experiment: verdict, arms, results, checks, costs."""

import math
from collections.abc import Callable, Mapping
from typing import Literal

from stream.report.formatting import number, percent, span_words
from stream.report.pages.page import ArmTable, Cell, Figure, Page, Row, Section, Tile
from stream.report.plots.figure import colours
from stream.report.schema import ArmResult, Check, ExperimentReport
from stream.report.sentences import cuped_line, headline, interleaving_lines, pair_lines

Cells = Callable[[ExperimentReport, str], list[Cell]]

_SOURCE = {
    "simulated": "The users are simulated. Each arm ranked the candidates for its own users.",
    "live": "This is live traffic. Each arm ranked the candidates for its own users.",
}


def experiment_page(report: ExperimentReport, figures: Mapping[str, Figure]) -> Page:
    """Return the page; `figures` by name, those that were drawn."""

    def drawn(*names: str) -> list[Figure]:
        return [figures[name] for name in names if name in figures]

    return Page(
        title=f"samstream experiment: {report.name}",
        headline=headline(report),
        lead=(
            f"{_rates(report)}{number(report.impressions)} impressions in {span_words(report.seconds)}. "
            f"{_SOURCE[report.source]}"
        ),
        tiles=_tiles(report),
        sections=[
            Section(
                "What was compared",
                "Every user is in one arm, chosen by a hash of the user's id.",
                _table(report, ["share of users", "users seen", "model", "behaviours read", "learns"], _planned),
            ),
            Section(
                "What came out",
                lines=[*pair_lines(report.verdict), *cuped_line(report.verdict)],
                table=_table(
                    report,
                    ["impressions", "clicks", "click rate", "best possible", "random", "missed clicks"],
                    _reached,
                ),
                figures=drawn("ctr", "lift", "regret"),
            ),
            *_interleaving(report),
            *_guardrails(report),
            Section(
                "Can the verdict be trusted?",
                "A mark in red takes the winner away. An orange one is worth knowing before you decide.",
                checks=report.checks,
            ),
            Section(
                "What it costs",
                f"Latency is {report.latency_is}.",
                _table(report, ["latency p50", "latency p99", "CPU for 1,000 answers", "answers measured"], _cost),
                figures=drawn("latency"),
            ),
            Section(
                "For engineers",
                table=_table(report, ["shown", "log loss", "model"], _inner),
                figures=drawn("freshness", "log_loss", "throughput"),
            ),
        ],
        notes=_notes(report),
    )


def _interleaving(report: ExperimentReport) -> list[Section]:
    if not report.interleaving:
        return []
    return [
        Section(
            "Which of two rankings do users prefer in one list?",
            "Users of an interleaved arm see lists that two arms have drafted in turn. A request is won by the arm "
            "that placed more of what was clicked. This says which ranking is preferred, not by how many clicks.",
            lines=interleaving_lines(report),
        )
    ]


def _guardrails(report: ExperimentReport) -> list[Section]:
    if not report.guardrails:
        return []
    states: dict[str, Literal["fine", "note", "fatal", "unknown"]]
    states = {"holds": "fine", "breaks": "fatal", "undecided": "unknown", "unknown": "unknown"}
    return [
        Section(
            "What must not get worse",
            "Guardrails, as the experiment's file has them. Red: broken, even if the arm wins. A question mark: it "
            "cannot be told yet.",
            checks=[
                Check(result.guardrail, f"{result.arm}: {result.state}", f"{result.text}.", states[result.state])
                for result in report.guardrails
            ],
        )
    ]


def _rates(report: ExperimentReport) -> str:
    rates = ", ".join(f"{percent(arm.ctr)} in {name}" for name, arm in report.arms.items() if arm.shown)
    return f"Of what was shown, users clicked {rates}. " if rates else ""


def _tiles(report: ExperimentReport) -> list[Tile]:
    latency, freshness = report.latency_ms, report.freshness_s
    tiles = [
        Tile(number(report.impressions), "impressions"),
        Tile(number(report.clicks), "clicks"),
        Tile(f"{number(latency.p50)} / {number(latency.p99)} ms", "latency p50 / p99"),
    ]
    if not math.isnan(freshness.p50):
        tiles.append(Tile(f"{number(freshness.p50, 1)} / {number(freshness.p99, 1)} s", "freshness p50 / p99"))
    if report.samples_trained is not None:
        tiles.append(Tile(number(report.samples_trained), "samples learned"))
    if report.dead_letters is not None:
        tiles.append(Tile(number(report.dead_letters), "dead letters"))
    return tiles


def _table(report: ExperimentReport, columns: list[str], cells: Cells) -> ArmTable:
    palette = colours(report.plan)
    return ArmTable(columns, [Row(name, palette[name], cells(report, name)) for name in report.plan])


def _planned(report: ExperimentReport, name: str) -> list[Cell]:
    plan = report.plan[name]
    return [
        Cell("–" if math.isnan(plan.share) else f"{100 * plan.share:.4g}%"),
        Cell(number(report.arms[name].users)),
        Cell(plan.model),
        Cell(f"the last {number(plan.length)}" if plan.length else "–"),
        Cell(plan.learns),
    ]


def _reached(report: ExperimentReport, name: str) -> list[Cell]:
    arm = report.arms[name]
    return [
        Cell(number(arm.impressions)),
        Cell(number(arm.clicks)),
        Cell(percent(arm.ctr), _interval(arm)),
        Cell("unknown" if math.isnan(arm.ctr_best) else percent(arm.ctr_best)),
        Cell("unknown" if math.isnan(arm.ctr_random) else percent(arm.ctr_random)),
        Cell("unknown") if math.isnan(arm.regret) else Cell(number(arm.regret, 2), "an impression"),
    ]


def _cost(report: ExperimentReport, name: str) -> list[Cell]:
    arm = report.arms[name]
    return [
        Cell(f"{number(arm.latency_ms.p50)} ms"),
        Cell(f"{number(arm.latency_ms.p99)} ms"),
        Cell("unknown" if math.isnan(arm.cpu_s) else f"{arm.cpu_s:.2g} s"),
        Cell(number(arm.timed)),
    ]


def _inner(report: ExperimentReport, name: str) -> list[Cell]:
    arm = report.arms[name]
    return [
        Cell(number(arm.shown)),
        Cell(number(arm.log_loss, 3), "" if math.isnan(arm.log_loss_floor) else f"least {arm.log_loss_floor:.3f}"),
        Cell(f"{arm.epoch}.{arm.version}"),
    ]


def _interval(arm: ArmResult) -> str:
    return "" if math.isnan(arm.ctr_low) else f"{percent(arm.ctr_low)} to {percent(arm.ctr_high)}"


def _notes(report: ExperimentReport) -> list[str]:
    notes = [
        f"The verdict may be looked at any time and acted on at any look: among arms that are alike it names a winner "
        f"in at most {100 * report.alpha:g} of 100 experiments. Its “any time” intervals hold at all looks at once. "
        f"They are narrowest for a gain of {100 * report.minimum_effect:g}%.",
        "Click rate: clicked items over shown items. Intervals are taken over users, because one user's clicks are not "
        "independent; those in the table and in the first picture hold for one look.",
        "CPU for 1,000 answers: CPU time of the worker's scoring thread while it scored batches of this arm, divided "
        "evenly among the impressions of a batch. Reading and keeping histories, labelling and learning are not in it, "
        "nor what a GPU or further threads (worker.threads above 1) did.",
        "Log loss of two arms is not comparable as it stands: the arm that shows better items shows fewer obvious "
        "misses.",
    ]
    if report.source == "live":
        return [
            *notes,
            "Best possible, random and missed clicks are unknown: nobody knows what users would have clicked.",
        ]
    return [
        "This is a simulation: the users, their interests and their clicks come from a made-up world with known click "
        "probabilities. It shows that the system works and what it can exploit, not what your users will do.",
        *notes,
        "Best possible and random: click rates to expect on the same requests of a ranking by the true probabilities, "
        "and of a random one. Missed clicks (regret): clicks to expect of the best possible ranking, less those to "
        "expect of the arm's. Least log loss: that of the true probabilities of the items that were shown.",
        "Freshness: from a click produced to the first answer by a model that has learned from it.",
    ]
