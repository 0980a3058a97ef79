"""README's table: of each benchmark and system the figures that matter."""

from collections.abc import Iterable

from docs.generator.markdown import table
from docs.generator.measured import Entry, Measured, MeasuredError
from docs.generator.parts import COUNTED, entry_of, joined, lab_cell, lift_text, wanted_text, with_unit

_SUMMARY = (
    ("scoring", "literal / served", "SAM as served against its literal form, {} behaviours"),
    ("scoring", "p99 of a request", "p99 of a request, {} behaviours"),
    ("ingest", "one worker", "behaviours into committed sequences"),
    ("ingest", "against", "the same against {}"),
    ("latency", "p99", "p99 from request to answer, {}"),
    ("freshness", "p50", "click to an answer that has learned from it, p50 {}"),
    ("freshness", "p99", "the same, p99 {}"),
    ("training", "literal / learner,", "a step of the learner against autograd, {}"),
    ("sync", "pause", "pause of a worker {}"),
    ("state", "read", "1000 behaviours of a user, {}"),
    ("learning", "AUC of sam less", "AUC of `sam` less {} with the same features, on real visits"),
)
"""Benchmark, how the names of its targets begin, and how they are called in README; {} is the rest of the name."""


def summary(measured: Measured) -> str:
    """Return README's table: of each benchmark the figures that matter, and what was reached beside them."""
    rows: list[tuple[str, str, str, str]] = []
    for bench, beginning, label in _SUMMARY:
        entry = entry_of(measured, bench)
        found = [each for each in entry.result["targets"] if each["name"].startswith(beginning)]
        if not found:
            raise MeasuredError(f"no target of {bench!r} begins with {beginning!r}")
        for each in found:
            text = label.format(each["name"].removeprefix(beginning).strip(" ,"))
            reached = with_unit(each["value"], each["unit"])
            shown = f"**{reached}**" if each["met"] is False else reached
            rows.append((f"`{bench}`: {text}", shown, wanted_text(each), _origin(entry)))
    for name, row in _summary_of_systems(measured):
        rows.append((*row, _origin(measured[name])))
    return joined(
        "*Broker, worker, trainer and whoever asks share the cores. Bold: the target was missed.*",
        table(("what", "reached", "wanted", "measured"), rows),
    )


def _origin(entry: Entry) -> str:
    """Say when and on what it was measured, in a few words; on what does not matter in virtual time."""
    parts = entry.machine.split(", ")
    cores = next((place for place, part in enumerate(parts) if " cores" in part), 0)
    return ", ".join(part for part in (entry.date, *parts[: cores + 1]) if part)


def _summary_of_systems(measured: Measured) -> Iterable[tuple[str, tuple[str, str, str]]]:
    faults = entry_of(measured, "faults").result
    systems = [faults, *faults.get("episodes", {}).values()]
    kinds = [system[kind] for system in systems for kind in COUNTED]
    lost, doubled = (sum(kind[column] for kind in kinds) for column in ("lost", "doubled"))
    number = sum(sum(system["kills"].values()) for system in systems)
    yield (
        "faults",
        (
            f"`make faults`: lost, doubled, of {sum(kind['sent'] for kind in kinds):,} records under {number} faults",
            f"{lost}, {doubled}",
            "0, 0",
        ),
    )
    rows = {row["ranker"]: row for row in entry_of(measured, "trees").result["results"]}
    best_trees = max((name for name in rows if name.startswith("lightgbm")), key=lambda name: rows[name]["AUC"])
    ahead, error = -rows[best_trees]["AUC less sam's"], rows[best_trees]["±"]
    what = "`trees`: AUC of `sam` less that of the best LightGBM behind the same worker, without features"
    yield "trees", (what, f"{ahead:.4f} ± {error:.4f}", "")
    arms = entry_of(measured, "replay").result["arms"]
    best = sorted(arms.items(), key=lambda arm: -arm[1]["auc"])
    reached = ", ".join(f"{arm['auc']:.4f} `{name}`" for name, arm in best)
    yield "replay", ("`replay` of Complete Journey: AUC", reached, "")
    for answer in entry_of(measured, "lab-arms").result["tables"]["answers: lift of the click rate"]:
        what = f"`lab arms`: clicks of {answer['arm']} over {answer['against']}"
        yield "lab-arms", (what, lab_cell("lift", answer), "")
    for pair in entry_of(measured, "demo").result["pairs"]:
        what = f"`demo`: clicks of `{pair['arm']}` over `{pair['against']}`, any-time interval"
        yield "demo", (what, lift_text(pair["lift"]), "")
