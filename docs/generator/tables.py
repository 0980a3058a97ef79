"""The measured tables: `docs/measured.json` → Markdown, by the name of the part that a page leaves for it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from docs.generator.markdown import percent, table
from docs.generator.measured import Entry, Measured, MeasuredError
from stream.report.findings import cell_text

Row = Mapping[str, Any]

_SCORING = ("users", "candidates", "length", "literal ms", "served ms", "times")
_COUNTED = ("behaviors", "impressions", "clicks", "samples")
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


def _entry(measured: Measured, name: str) -> Entry:
    if name not in measured:
        raise MeasuredError(f"docs/measured.json has no {name!r}: measure it, then `python -m docs.generator add FILE`")
    return measured[name]


def _caption(entry: Entry) -> str:
    """Say when, where and how it was measured."""
    how = f"`{entry.command}`" if entry.command else "an earlier run, of which only these figures were kept"
    said = [part for part in (entry.date, entry.machine, entry.note, how) if part]
    return f"*Measured {'; '.join(said)}.*"


def _targets(entry: Entry) -> str:
    rows = [
        (each["name"], _with_unit(each["value"], each["unit"]), _wanted(each), _met(each))
        for each in entry.result.get("targets", ())
    ]
    return table(("target", "reached", "wanted", ""), rows)


def _wanted(target: Row) -> str:
    return f"{target['sense']} {_with_unit(target['target'], target['unit'])}"


def _met(target: Row) -> str:
    return {True: "met", False: "**missed**", None: "not measured"}[target["met"]]


def _with_unit(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return percent(value) + f" {unit}" if unit == "of worlds" else f"{cell_text(value)} {unit}"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _bench(measured: Measured, name: str, columns: Sequence[str] = (), rename: Mapping[str, str] | None = None) -> str:
    """Return a benchmark's rows as they are, and its targets."""
    entry = _entry(measured, name)
    rows = entry.result["results"]
    shown = columns or list(rows[0])
    heads = [(rename or {}).get(column, column) for column in shown]
    return _joined(
        _caption(entry),
        table(heads, [[cell_text(row.get(column)) for column in shown] for row in rows]),
        _targets(entry),
    )


def _joined(*parts: str) -> str:
    return "\n\n".join(parts)


def _training(measured: Measured) -> str:
    entry = _entry(measured, "training")
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
    return _joined(
        _caption(entry), table(heads, rows), table(("rows of the table", "ms, median"), tables), _targets(entry)
    )


def _experiment(measured: Measured) -> str:
    entry = _entry(measured, "experiment")
    rows = entry.result["results"]
    alike = [(row["world"], *(_share(row, way) for way in _WAYS)) for row in rows if row["lift"] == 0]
    lifted = [row for row in rows if row["lift"] > 0]
    power = [(way, *(_share(row, way, digits=0) for row in lifted)) for way in _WAYS[:3]]
    return _joined(
        _caption(entry),
        table(("A against A", *_WAYS), alike),
        table(("true lift", *(f"{100 * row['lift']:g}%" for row in lifted)), power),
        _targets(entry),
    )


def _share(row: Row, way: str, digits: int = 1) -> str:
    return percent(row.get(way), digits=digits)


def _interleaving(measured: Measured) -> str:
    entry = _entry(measured, "interleaving")

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
    return _joined(_caption(entry), table(heads, rows), _targets(entry))


def _lab(measured: Measured, name: str) -> str:
    entry = _entry(measured, name)
    return _joined(_caption(entry), *(_lab_table(title, rows) for title, rows in entry.result["tables"].items()))


def _lab_table(title: str, rows: Sequence[Row]) -> str:
    columns = [name for name in rows[0] if not name.endswith((" low", " high"))]
    lines = [[_lab_cell(name, row) for name in columns] for row in rows]
    return f"{_capitalised(title)}:\n\n{table(columns, lines)}"


def _lab_cell(name: str, row: Row) -> str:
    """Return a value with its interval; click rates, regret and lifts in percent, what is near 1 with four digits."""
    signed = "lift" in name or "over" in name or "more" in name
    form = _plain if "AUC" in name or "loss" in name else percent
    value = row.get(name)
    if isinstance(value, str) or name == "samples":
        return cell_text(value)
    low, high = row.get(f"{name} low"), row.get(f"{name} high")
    said = form(value, signed=signed)
    return said if low is None else f"{said} ({form(low, signed=signed)} to {form(high, signed=signed)})"


def _plain(value: float | None, *, signed: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if signed else ''}.4g}".replace("-", "−")


def _replay(measured: Measured) -> str:
    entry = _entry(measured, "replay")
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
    return _joined(_caption(entry), counts, table(heads, rows))


def _learning(measured: Measured) -> str:
    entries = {
        "drawn by popularity so far": _entry(measured, "learning"),
        "from the last 14 days' sales": _entry(measured, "learning-recent"),
        "of the same category, each alike": _entry(measured, "learning-category"),
    }
    parts = [f"Negatives {drawn}. {_caption(entry)}\n\n{_rankers(entry)}" for drawn, entry in entries.items()]
    return _joined(*parts, "± is a standard error over households; differences are paired.")


def _kuairand(measured: Measured) -> str:
    entry = _entry(measured, "learning-kuairand")
    return _joined(_caption(entry), _rankers(entry))


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
    entry = _entry(measured, "trees")

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
    return _joined(_caption(entry), table(heads, rows))


def _models(measured: Measured) -> str:
    known = {
        "lab-models": "Complete Journey",
        "lab-models-kuairand": "KuaiRand",
        "lab-models-sam": "Parts of SAM, on Complete Journey",
        "lab-models-sequel": "A simulated world with sequels",
    }
    entries = {said: measured[name] for name, said in known.items() if name in measured}
    return _joined(*(f"**{name}.** {_caption(entry)}\n\n{_model_rows(entry)}" for name, entry in entries.items()))


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
        _entry(measured, "demo")
    return _joined(
        *(f"{_caption(entry)}\n\n{table(('what', 'reached'), _demo_rows(entry.result))}" for entry in entries)
    )


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
        (f"lift of `{pair['arm']}` over `{pair['against']}`, any-time interval", _lift(pair["lift"]))
        for pair in found["pairs"]
    ]


def _lift(interval: Sequence[float]) -> str:
    value, low, high = (percent(each, digits=0, signed=True) for each in interval)
    return f"{value} ({low} to {high})"


def _faults(measured: Measured) -> str:
    entry = _entry(measured, "faults")
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
    parts = [_caption(entry), counted, table(("also counted", ""), others)]
    if episodes:
        heads = ("fault", "times", "told stops", "records", "removed", "told to be missing", "lost", "doubled", "wrong")
        parts.append(table(heads, [_episode(kind, episode) for kind, episode in sorted(episodes.items())]))
        parts += [f"Left out: {kind} ({reason})." for kind, reason in found["left_out"].items()]
    return _joined(*parts)


def _episode(kind: str, found: Row) -> tuple[str, ...]:
    """Return the accounts of a kind of fault that has a system of its own."""
    stops = ", ".join(f"{count} {job}" for job, count in sorted(found["told_stops"].items()))
    counted = {
        column: sum(found[each][column] for each in _COUNTED) for column in ("sent", "removed", "lost", "doubled")
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


def _summary(measured: Measured) -> str:
    """Return README's table: of each benchmark the figures that matter, and what was reached beside them."""
    rows: list[tuple[str, str, str, str]] = []
    for bench, beginning, label in _SUMMARY:
        entry = _entry(measured, bench)
        found = [each for each in entry.result["targets"] if each["name"].startswith(beginning)]
        if not found:
            raise MeasuredError(f"no target of {bench!r} begins with {beginning!r}")
        for each in found:
            text = label.format(each["name"].removeprefix(beginning).strip(" ,"))
            reached = _with_unit(each["value"], each["unit"])
            shown = f"**{reached}**" if each["met"] is False else reached
            rows.append((f"`{bench}`: {text}", shown, _wanted(each), _origin(entry)))
    for name, row in _summary_of_systems(measured):
        rows.append((*row, _origin(measured[name])))
    return _joined(
        "*Broker, worker, trainer and whoever asks share the cores. Bold: the target was missed.*",
        table(("what", "reached", "wanted", "measured"), rows),
    )


def _origin(entry: Entry) -> str:
    """Say when and on what it was measured, in a few words; on what does not matter in virtual time."""
    parts = entry.machine.split(", ")
    cores = next((place for place, part in enumerate(parts) if " cores" in part), 0)
    return ", ".join(part for part in (entry.date, *parts[: cores + 1]) if part)


def _summary_of_systems(measured: Measured) -> Iterable[tuple[str, tuple[str, str, str]]]:
    faults = _entry(measured, "faults").result
    systems = [faults, *faults.get("episodes", {}).values()]
    kinds = [system[kind] for system in systems for kind in _COUNTED]
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
    arms = _entry(measured, "replay").result["arms"]
    best = sorted(arms.items(), key=lambda arm: -arm[1]["auc"])
    reached = ", ".join(f"{arm['auc']:.4f} `{name}`" for name, arm in best)
    yield "replay", ("`replay` of Complete Journey: AUC", reached, "")
    for answer in _entry(measured, "lab-arms").result["tables"]["answers: lift of the click rate"]:
        what = f"`lab arms`: clicks of {answer['arm']} over {answer['against']}"
        yield "lab-arms", (what, _lab_cell("lift", answer), "")
    for pair in _entry(measured, "demo").result["pairs"]:
        what = f"`demo`: clicks of `{pair['arm']}` over `{pair['against']}`, any-time interval"
        yield "demo", (what, _lift(pair["lift"]), "")


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

_FORGETTING = {"AUC less that of 'nothing is forgotten'": "difference in AUC"}
"""Columns of `bench forgetting` by shorter names."""

_PARTS: Mapping[str, Callable[[Measured], str]] = {
    "scoring": lambda measured: _bench(measured, "scoring", _SCORING),
    "training": _training,
    "ingest": lambda measured: _bench(measured, "ingest", rename={"records/s": "behaviours a second"}),
    "latency": lambda measured: _bench(measured, "latency", _LATENCY),
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
    "replay": _replay,
    "learning": _learning,
    "learning-kuairand": _kuairand,
    "lab-models": _models,
    "demo": _demo,
    "faults": _faults,
    "summary": _summary,
}
