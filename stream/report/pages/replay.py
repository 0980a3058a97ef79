"""The page of a replay: which arm ranks best, with every arm evaluated on the same samples."""

from collections.abc import Mapping

from stream.report.formatting import number
from stream.report.pages.page import ArmTable, Cell, Figure, Page, Row, Section, Tile
from stream.report.plots.figure import colours
from stream.report.schema import ReplayArm, ReplayReport
from stream.report.sentences import replay_headline


def replay_page(report: ReplayReport, figures: Mapping[str, Figure]) -> Page:
    """Return the page; `figures` by name."""
    palette = colours(report.arms)
    columns = ["samples", "positives", "AUC", "GAUC", "NE", "log loss", "calibration"]
    rows = [Row(name, palette[name], _cells(arm)) for name, arm in report.arms.items()]
    return Page(
        title=report.title,
        headline=replay_headline(report),
        lead=(
            f"{number(report.behaviors)} behaviours and {number(report.impressions)} impressions of {report.dataset} "
            f"went through the whole loop in {report.seconds:.0f} seconds: impression, score, click, sample, update. "
            "Every arm was evaluated on the same samples, each before it was learned from."
        ),
        tiles=[
            Tile(number(report.behaviors), "behaviours"),
            Tile(number(report.impressions), "impressions"),
            Tile(number(report.clicks), "clicks"),
            Tile(f"{number(report.seconds)} s", "from first to last record"),
            Tile(number(report.dead_letters), "dead letters"),
        ],
        sections=[
            Section("The arms", table=ArmTable(columns, rows)),
            Section("What happened", figures=list(figures.values())),
        ],
        notes=[
            f"Evaluated on: {report.judged}.",
            "AUC: how often a clicked item is ranked above one that was not; 0.5 is random. GAUC: the same within "
            "users, weighted by their samples.",
            "NE, normalised entropy: log loss over that of always predicting the mean click rate; below 1 is better.",
            "Calibration: predicted over observed clicks; 1 is best.",
        ],
    )


def _cells(arm: ReplayArm) -> list[Cell]:
    metrics = (arm.auc, arm.gauc, arm.ne, arm.log_loss, arm.calibration)
    return [Cell(number(arm.samples)), Cell(number(arm.positives)), *(Cell(number(metric, 3)) for metric in metrics)]
