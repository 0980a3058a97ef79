"""The measured tables: `docs/measured.json` → Markdown, by the name of the part that a page leaves for it."""

from collections.abc import Callable, Mapping, Sequence

from docs.generator.markdown import percent, table
from docs.generator.measured import Entry, Measured, MeasuredError
from docs.generator.parts import (
    COUNTED,
    Row,
    caption,
    entry_of,
    joined,
    lab_cell,
    lift_text,
    targets_table,
    wanted_text,
    with_unit,
)
from docs.generator.summary import summary
from stream.report.findings import cell_text

_SCORING = ("users", "candidates", "length", "literal ms", "served ms", "times")
_WRONG = (
    "refused",
    "labels_wrong",
    "sequences_differing",
    "sample_sequences_differing",
    "non_finite",
    "answers_foreign",
)
"""What the fault campaign counts that must be 0, beside what is lost and doubled."""
_FIRST = "AUC less sam's"
_TREES_COST = ("learning, CPU ms", "request, CPU ms", "worker, CPU ms", "p50, ms", "p99, ms")
_LATENCY = ("requests a second", "p50, ms", "p99, ms", "p99.9, ms", "wait, ms", "score, ms", "to and from Kafka, ms")
_WAYS = ("any time", "any time, CUPED", "one look at the end", "naive, one look", "naive, peeking")


def render(measured: Measured, name: str) -> str:
    """Return the part called `name`.

    Raises:
        MeasuredError: when there is no such part, or it needs what was not measured.
    """
    if name not in _PARTS:
        raise MeasuredError(f"no table is called {name!r}; there are {', '.join(_PARTS)}")
    return _PARTS[name](measured)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _bench(measured: Measured, name: str, columns: Sequence[str] = (), rename: Mapping[str, str] | None = None) -> str:
    """Return a benchmark's rows as they are, and its targets."""
    entry = entry_of(measured, name)
    rows = entry.result["results"]
    shown = columns or list(rows[0])
    heads = [(rename or {}).get(column, column) for column in shown]
    return joined(
        caption(entry),
        table(heads, [[cell_text(row.get(column)) for column in shown] for row in rows]),
        targets_table(entry),
    )


def _training(measured: Measured) -> str:
    entry = entry_of(measured, "training")
    steps: dict[str, dict[str, Row]] = {}
    tables = []
    for row in entry.result["results"]:
        if row["what"].startswith("step, "):
            steps.setdefault(row["what"].removeprefix("step, "), {})[row["side"]] = row
        else:
            tables.append((row["what"].removeprefix("table of ").removesuffix(" rows"), cell_text(row["ms"])))
    rows = [
        (
            what,
            *(cell_text(side["samples/s"]) for side in (both["literal"], both["learner"])),
            cell_text(both["learner"]["samples/s"] / both["literal"]["samples/s"]),
            *(cell_text(side["peak MB"]) for side in (both["literal"], both["learner"])),
        )
        for what, both in steps.items()
    ]
    heads = ("step on", "literal, samples/s", "learner, samples/s", "times", "literal, peak MB", "learner, peak MB")
    return joined(
        caption(entry), table(heads, rows), table(("rows of the table", "ms, median"), tables), targets_table(entry)
    )


def _avx2(measured: Measured) -> str:
    """Return what was reached on the same machine with AVX2 alone, beside what is reached with all that it can do."""
    rows = []
    for bench in ("scoring", "training", "latency"):
        narrow, wide = (entry_of(measured, name).result["targets"] for name in (f"{bench}-avx2", bench))
        reached = {each["name"]: with_unit(each["value"], each["unit"]) for each in wide}
        rows += [
            (
                f"`{bench}`: {each['name']}",
                with_unit(each["value"], each["unit"]),
                reached[each["name"]],
                wanted_text(each),
            )
            for each in narrow
            if each["value"] is not None
        ]
    return joined(caption(entry_of(measured, "latency-avx2")), table(("what", "AVX2", "AVX-512", "wanted"), rows))


def _experiment(measured: Measured) -> str:
    entry = entry_of(measured, "experiment")
    rows = entry.result["results"]
    alike = [(row["world"], *(_share(row, way) for way in _WAYS)) for row in rows if row["lift"] == 0]
    lifted = [row for row in rows if row["lift"] > 0]
    power = [(way, *(_share(row, way, digits=0) for row in lifted)) for way in _WAYS[:3]]
    return joined(
        caption(entry),
        table(("A against A", *_WAYS), alike),
        table(("true lift", *(f"{100 * row['lift']:g}%" for row in lifted)), power),
        targets_table(entry),
    )


def _share(row: Row, way: str, digits: int = 1) -> str:
    return percent(row.get(way), digits=digits)


def _interleaving(measured: Measured) -> str:
    entry = entry_of(measured, "interleaving")

    def design(row: Row, name: str) -> str:
        median = row[f"{name}, median impressions"]
        return f"{percent(row[f'{name} decides'], digits=0)}, {'–' if median is None else cell_text(round(median))}"

    heads = (
        "rankings",
        "`user_effect_sd`",
        "interleaving: decides, median impressions",
        "A/B: decides, median impressions",
        "both decide, and agree",
    )
    rows = [
        (
            row["rankings"],
            f"{row['temper']:g}",
            design(row, "interleaving"),
            design(row, "A/B"),
            f"{row['both decide']}, {row['and agree']}",
        )
        for row in entry.result["results"]
    ]
    return joined(caption(entry), table(heads, rows), targets_table(entry))


def _lab(measured: Measured, name: str) -> str:
    entry = entry_of(measured, name)
    return joined(caption(entry), *(_lab_table(title, rows) for title, rows in entry.result["tables"].items()))


def _lab_table(title: str, rows: Sequence[Row]) -> str:
    columns = [name for name in rows[0] if not name.endswith((" low", " high"))]
    lines = [[lab_cell(name, row) for name in columns] for row in rows]
    return f"{_capitalised(title)}:\n\n{table(columns, lines)}"


def _replays(measured: Measured) -> str:
    return joined(_replay(entry_of(measured, "replay")), _replay(entry_of(measured, "replay-kafka")))


def _replay(entry: Entry) -> str:
    found = entry.result
    counts = (
        f"{found['behaviors']:,} behaviours, {found['impressions']:,} impressions, {found['clicks']:,} clicks, "
        f"{found['dead_letters']} dead letters; {found['seconds']:.0f} s. Evaluated on: {found['judged']}."
    )
    heads = ("arm", "samples", "positives", "AUC", "GAUC", "NE", "log loss", "calibration")
    rows = [
        (
            f"`{name}`",
            cell_text(arm["samples"]),
            cell_text(arm["positives"]),
            *(f"{arm[column]:.4f}" for column in ("auc", "gauc", "ne", "log_loss")),
            f"{arm['calibration']:.3f}",
        )
        for name, arm in sorted(found["arms"].items(), key=lambda each: -each[1]["auc"])
    ]
    return joined(caption(entry), counts, table(heads, rows))


def _learning(measured: Measured) -> str:
    entries = {
        "drawn by popularity so far": entry_of(measured, "learning"),
        "from the last 14 days' sales": entry_of(measured, "learning-recent"),
        "of the same category, each alike": entry_of(measured, "learning-category"),
    }
    parts = [f"Negatives {drawn}. {caption(entry)}\n\n{_rankers(entry)}" for drawn, entry in entries.items()]
    return joined(*parts, "± is a standard error over households; differences are paired.")


def _kuairand(measured: Measured) -> str:
    entry = entry_of(measured, "learning-kuairand")
    return joined(caption(entry), _rankers(entry))


def _rankers(entry: Entry) -> str:
    rows = [
        (
            f"`{row['arm']}`",
            f"{row['AUC']:.4f} ± {row['± AUC']:.4f}",
            "" if not row["±"] else f"{row[_FIRST]:+.4f} ± {row['±']:.4f}".replace("-", "−"),
            *(f"{row[column]:.4f}" for column in ("GAUC", "NE")),
            f"{row['calibration']:.3f}",
            f"{row['seconds']:.0f}",
        )
        for row in entry.result["results"]
    ]
    return table(("ranker", "AUC", "less `sam`'s", "GAUC", "NE", "calibration", "seconds"), rows)


def _trees(measured: Measured) -> str:
    entry = entry_of(measured, "trees")

    def behind(row: Row, column: str, error: str) -> str:
        return "" if not row[error] else f"{row[column]:+.4f} ± {row[error]:.4f}".replace("-", "−")

    rows = [
        (
            f"`{row['ranker']}`",
            f"{row['AUC']:.4f}",
            behind(row, _FIRST, "±"),
            f"{row['NDCG@10']:.4f}",
            behind(row, "NDCG less sam's", "± NDCG@10"),
            f"{row['MRR']:.4f}",
            *(cell_text(row[column]) for column in _TREES_COST),
        )
        for row in entry.result["results"]
    ]
    heads = ("ranker", "AUC", "less `sam`'s", "NDCG@10", "less `sam`'s", "MRR", *_TREES_COST)
    return joined(caption(entry), table(heads, rows))


def _models(measured: Measured) -> str:
    known = {
        "lab-models": "Complete Journey",
        "lab-models-kuairand": "KuaiRand",
        "lab-models-lengths": "Lengths, on Complete Journey",
        "lab-models-sam": "Parts of SAM, on Complete Journey",
        "lab-models-sequel": "A simulated world with sequels",
    }
    entries = {said: measured[name] for name, said in known.items() if name in measured}
    return joined(*(f"**{name}.** {caption(entry)}\n\n{_model_rows(entry)}" for name, entry in entries.items()))


def _model_rows(entry: Entry) -> str:
    heads = ("arm", "AUC", "less `din`'s", "GAUC", "NE", "calibration", "AUC alone", "ms p50 / p99", "× 4", "samples/s",
             "parameters")  # fmt: skip
    ordered = sorted(entry.result["arms"].items(), key=lambda each: -each[1]["auc"])
    rows = [
        (
            f"`{arm}`",
            f"{found['auc']:.4f} ± {found['auc_error']:.4f}",
            "" if not found["ahead_error"] else f"{found['ahead']:+.4f} ± {found['ahead_error']:.4f}".replace("-", "−"),
            *(f"{found[column]:.4f}" for column in ("gauc", "ne")),
            f"{found['calibration']:.3f}",
            "–" if found["pure_auc"] is None else f"{found['pure_auc']:.4f}",
            f"{found['ms_p50']:.1f} / {found['ms_p99']:.1f}",
            "–" if found["growth"] is None else f"{found['growth']:.1f}",
            cell_text(found["samples_per_s"]),
            cell_text(found["parameters"]),
        )
        for arm, found in ordered
    ]
    return table(heads, rows)


def _demo(measured: Measured) -> str:
    entries = [entry for name, entry in measured.items() if name == "demo" or name.startswith("demo-")]
    if not entries:
        entry_of(measured, "demo")
    return joined(*(f"{caption(entry)}\n\n{table(('what', 'reached'), _demo_rows(entry.result))}" for entry in entries))


def _demo_rows(found: Row) -> list[tuple[str, str]]:
    both = [
        ("impressions", cell_text(found["impressions"])),
        ("answers", cell_text(found["scores"])),
        ("clicks", cell_text(found["clicks"])),
        ("samples learned", cell_text(found["samples_trained"])),
        ("dead letters", cell_text(found["dead_letters"])),
        ("latency, p50 / p99", f"{found['latency_ms']['p50']:.0f} / {found['latency_ms']['p99']:.0f} ms"),
        ("freshness, p50 / p99", f"{found['freshness_s']['p50']:.2f} / {found['freshness_s']['p99']:.2f} s"),
        *((f"CTR of `{name}`", percent(arm["ctr"])) for name, arm in found["arms"].items()),
    ]
    return both + [
        (f"lift of `{pair['arm']}` over `{pair['against']}`, any-time interval", lift_text(pair["lift"]))
        for pair in found["pairs"]
    ]


def _faults(measured: Measured) -> str:
    entry = entry_of(measured, "faults")
    found = entry.result
    counted = table(
        ("", "sent", "processed", "lost", "doubled"),
        [
            (name, *(cell_text(found[kind][column]) for column in ("sent", "processed", "lost", "doubled")))
            for name, kind in (
                ("behaviours", "behaviors"),
                ("impressions", "impressions"),
                ("clicks", "clicks"),
                ("samples learned", "samples"),
            )
        ],
    )
    kills = found["kills"]
    episodes = found.get("episodes", {})
    others = [
        ("faults", f"{sum(kills.values())}: {', '.join(f'{count} {kind}' for kind, count in sorted(kills.items()))}"),
        ("duration", "–" if found["seconds"] is None else _minutes([found, *episodes.values()])),
        ("answers repeated (allowed)", cell_text(found["repeated_answers"])),
        ("clicks too late for their window (in `dead-letters`)", cell_text(found["late_clicks"])),
        ("labels wrong", cell_text(found["labels_wrong"])),
        (
            "sequences that differ from a fold in plain Python, of the state / of samples / of the trainer",
            f"{found['sequences_differing']} / {found['sample_sequences_differing']} /"
            f" {found.get('trainer_sequences_differing', 'not yet compared')}",
        ),
        ("parameters that are not finite", cell_text(found["non_finite"])),
    ]
    parts = [caption(entry), counted, table(("also counted", ""), others)]
    if episodes:
        heads = ("fault", "times", "told stops", "records", "removed", "told to be missing", "lost", "doubled", "wrong")
        parts.append(table(heads, [_episode(kind, episode) for kind, episode in sorted(episodes.items())]))
        parts += [f"Left out: {kind} ({reason})." for kind, reason in found["left_out"].items()]
    return joined(*parts)


def _episode(kind: str, found: Row) -> tuple[str, ...]:
    """Return the accounts of a kind of fault that has a system of its own."""
    stops = ", ".join(f"{count} {job}" for job, count in sorted(found["told_stops"].items()))
    counted = {
        column: sum(found[each][column] for each in COUNTED) for column in ("sent", "removed", "lost", "doubled")
    }
    wrong = sum(found[name] for name in _WRONG)
    return (
        kind,
        cell_text(sum(found["kills"].values())),
        stops or "–",
        cell_text(counted["sent"]),
        cell_text(counted["removed"]),
        cell_text(found["told_missing"]),
        cell_text(counted["lost"]),
        cell_text(counted["doubled"]),
        cell_text(wrong),
    )


def _minutes(parts: Sequence[Row]) -> str:
    """Return how long a campaign took; what has systems of its own runs at the same time, after the rest."""
    first, *others = (part["seconds"] for part in parts)
    return f"{(first + max(others, default=0)) / 60:.0f} minutes"


_FORGETTING = {"AUC less that of 'nothing is forgotten'": "difference in AUC"}
"""Columns of `bench forgetting` by shorter names."""

_PARTS: Mapping[str, Callable[[Measured], str]] = {
    "scoring": lambda measured: _bench(measured, "scoring", _SCORING),
    "training": _training,
    "ingest": lambda measured: _bench(measured, "ingest", rename={"records/s": "behaviours a second"}),
    "latency": lambda measured: _bench(measured, "latency", _LATENCY),
    "avx2": _avx2,
    "cost": lambda measured: _bench(measured, "cost"),
    "gateway": lambda measured: _bench(measured, "gateway"),
    "freshness": lambda measured: _bench(measured, "freshness"),
    "sync": lambda measured: _bench(measured, "sync"),
    "state": lambda measured: _bench(measured, "state"),
    "soak": lambda measured: _bench(measured, "soak"),
    "growth": lambda measured: _bench(measured, "growth"),
    "takeover": lambda measured: _bench(measured, "takeover"),
    "tables": lambda measured: _bench(measured, "tables"),
    "trees": _trees,
    "forgetting": lambda measured: _bench(measured, "forgetting", rename=_FORGETTING),
    "counting": lambda measured: _bench(measured, "counting"),
    "volume": lambda measured: _bench(measured, "volume"),
    "ranks": lambda measured: _bench(measured, "ranks"),
    "experiment": _experiment,
    "interleaving": _interleaving,
    "lab-arms": lambda measured: _lab(measured, "lab-arms"),
    "lab-position": lambda measured: _lab(measured, "lab-position"),
    "lab-freshness": lambda measured: _lab(measured, "lab-freshness"),
    "replay": _replays,
    "learning": _learning,
    "learning-kuairand": _kuairand,
    "lab-models": _models,
    "demo": _demo,
    "faults": _faults,
    "summary": summary,
}
