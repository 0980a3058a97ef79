"""`samstream experiment report`: the verdict on live traffic, from the outcomes that Kafka has."""

import argparse
import logging
import time
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from stream.cli.options import Commands, add_report_option, add_settings_command, load_settings
from stream.errors import TimeError
from stream.kafka.clients import check_connection, to_record
from stream.kafka.erasure_feed import read_erasures
from stream.kafka.reader import TopicReader
from stream.registry.formats import awaited_json, open_formats
from stream.runtime import signals
from stream.runtime.closing import Resources
from stream.runtime.progress import Progress
from stream.runtime.timestamps import parse_time, time_words
from stream.schema.events import Outcome, Score
from stream.schema.formats import JSON_ONLY, Formats
from stream.schema.topics import Topics

if TYPE_CHECKING:
    from stream.experiment.assignment import Assignment
    from stream.experiment.guardrails.counts import GuardrailCounts
    from stream.experiment.ledger import Ledger, OnCounted, ReadSummary
    from stream.experiment.plan import ExperimentPlan
    from stream.experiment.serving_cost import ServingCosts

_logger = logging.getLogger("samstream.report")


def add_parser(actions: Commands) -> argparse.ArgumentParser:
    """Add `experiment report`, without the experiment's file."""
    text = "read the outcomes of live traffic from Kafka, and write the verdict and its report"
    parser = add_settings_command(actions, "report", run, text)
    add_times(parser)
    text = "clicks from then until --since are pre-experiment data, which reduce the variance (CUPED)"
    parser.add_argument("--before", metavar="TIME", help=text)
    add_report_option(parser)
    return parser


def in_stage(
    plan: "ExperimentPlan", since: int | None, until: int | None, *, now: float
) -> "tuple[ExperimentPlan, int | None, Assignment | None]":
    """Return the experiment in the stage of its ramp that is reported, since when, and the assignment before that.

    Only the newest stage counts: in it nobody is moved, so every user is in one arm, and the shares hold.

    Args:
        plan: of the experiment.
        since: earliest time that is asked for, ms since the epoch; None for all.
        until: the time before which all is; None for now.
        now: seconds since the epoch.
    """
    from stream.experiment.assignment import Assignment

    last = 1000 * now if until is None else until - 1
    stages = plan.stages
    place = next(place for place, stage in enumerate(stages) if stage.holds(last))
    if place == 0:
        return plan.at(last), since, None
    begin = round(stages[place].begin)
    return plan.at(last), max(begin, since or 0), Assignment(stages[place - 1].shares, salt=plan.salt)


def add_times(parser: argparse.ArgumentParser) -> None:
    """Add `--since` and `--until`."""
    when = "2026-03-01, 2026-03-01T18:00 (UTC unless it says +01:00), or 90m, 12h, 7d for that long ago"
    parser.add_argument("--since", metavar="TIME", help=f"impressions from then on: {when} (default: all in Kafka)")
    parser.add_argument("--until", metavar="TIME", help="impressions before then (default: now)")


def run(arguments: argparse.Namespace) -> int:
    """Read the outcomes of `arguments.file`'s experiment and write the report; returns the exit status."""
    from stream.experiment.ledger import Ledger
    from stream.experiment.plan import Experiment, read
    from stream.experiment.serving_cost import ServingCosts
    from stream.experiment.weighted_rates import WeightedRates
    from stream.report.live_report import live_report, missing_words
    from stream.report.sentences import broken_guardrail_lines, headline
    from stream.report.writer import write_experiment

    settings = load_settings(arguments)
    plan = read(arguments.file)
    now = time.time()
    since, until, before = (
        None if text is None else parse_time(text, now=now)
        for text in (arguments.since, arguments.until, arguments.before)
    )
    experiment, since, earlier = in_stage(plan, since, until, now=now)
    check_order(since, until, before)
    if earlier is not None and before is not None:
        raise TimeError("--before: a step of the ramp begins the report, and the time before it had arms: leave it out")
    console = Console()
    check_connection(settings.kafka)
    ledger = Ledger(since=since, until=until, before=before, users=experiment.explorers)
    answers = ServingCosts()
    guardrails = Experiment.of(experiment).guardrail_counts(
        ledger, answers, salt=experiment.salt, users=experiment.explorers, now=round(1000 * now)
    )
    weighted = WeightedRates([arm.name for arm in experiment.compared]) if experiment.bandit.on else None
    if weighted is not None:
        ledger.on_counted = _both(ledger.on_counted, weighted.add_counted)
    earliest = before if before is not None else since
    # The time of an impression, and of its outcome, may be ahead of the Kafka timestamp by this much.
    begin = None if earliest is None else max(0, earliest - round(1000 * settings.worker.max_future_s))
    topics = Topics(settings.topics.prefix)
    with Resources() as resources:
        found = read_traffic(
            settings.kafka,
            topics,
            ledger,
            answers,
            begin=begin,
            on_missing=settings.topics.on_missing_records,
            guardrails=guardrails,
            users=experiment.explorers,
            formats=open_formats(settings, topics, resources) if guardrails is not None else JSON_ONLY,
        )
    facts: dict[str, str | int | float] = {"times": _times_text(since, until, before), "outcomes read": found.outcomes}
    report, trace = live_report(
        Experiment.of(experiment),
        ledger,
        answers,
        found,
        salt=experiment.salt,
        settings=facts,
        guardrails=guardrails,
        before_step=earlier,
        weighted=weighted,
    )
    if found.truncated_partitions or found.missing:
        console.print(f"warning: outcomes may be missing. {missing_words(found)}", highlight=False, soft_wrap=True)
    for line in (
        headline(report),
        *broken_guardrail_lines(report),
        *(result.sentence for result in report.interleaving),
    ):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"report: {write_experiment(arguments.report, report, trace)}")
    return 0


def _both(one: "OnCounted | None", other: "OnCounted") -> "OnCounted":
    def add(outcome: Outcome, indices: Sequence[int], first: bool) -> None:
        if one is not None:
            one(outcome, indices, first)
        other(outcome, indices, first)

    return add


def read_traffic(
    kafka: Mapping[str, str],
    topics: Topics,
    ledger: "Ledger",
    answers: "ServingCosts",
    *,
    begin: int | None,
    on_missing: Literal["stop", "skip"] = "stop",
    guardrails: "GuardrailCounts | None" = None,
    formats: Formats = JSON_ONLY,
    on_score: "Callable[[Score], None] | None" = None,
    users: Container[str] | None = None,
) -> "ReadSummary":
    """Read `outcomes` and `scores` once, up to their present end: outcomes into a ledger, scores into answers.

    Guardrails may need `impressions` or `behaviors` as well, which are large; they are read only then.

    Args:
        kafka: librdkafka properties.
        topics: the names.
        ledger: takes the outcomes, and decides which times count.
        answers: takes the scores of those times.
        begin: Kafka timestamp (ms) to start from; None for the beginning of the topics.
        on_missing: when Kafka removes records while they are read: `stop`, or `skip` and count them.
        guardrails: takes what the guardrails are judged on.
        formats: of `impressions` and `behaviors`.
        on_score: takes the scores of those times as well, of all users.
        users: whose scores, impressions and behaviors count; None for all. The ledger knows by itself.

    Raises:
        KafkaClientError: when the topics do not exist, when no record comes for a minute before the end, or when Kafka
            has removed some (`stop`).
        TopicError: when a topic is recreated while it is read.
        RegistryError: when the registry does not tell the schema of a record that the guardrails need.
    """
    from stream.experiment.ledger import ReadSummary
    from stream.experiment.traffic import Traffic

    tail = TopicReader(
        kafka,
        Traffic.wanted(topics, guardrails),
        from_beginning=begin is None,
        since_ms=begin,
        on_missing=on_missing,
    )
    cut = {partition for topic, partition in tail.removed if topic == topics.outcomes}
    found = ReadSummary(
        partitions=sum(topic == topics.outcomes for topic, _ in tail.positions), truncated_partitions=len(cut)
    )
    progress = Progress(_logger, "reading", "records", total := tail.left())
    try:
        erasures = read_erasures(kafka, topics)
        traffic = Traffic(
            topics,
            ledger,
            answers,
            erasures,
            found,
            guardrails=guardrails,
            on_score=on_score,
            users=users,
            to_json=partial(awaited_json, formats),
            scores_cut=[partition for topic, partition in tail.removed if topic == topics.scores],
        )
        for messages in tail.read_to_end():
            signals.raise_if_interrupted()
            for message in messages:
                record = to_record(message)
                if record.topic == topics.outcomes and record.partition in cut:
                    cut.remove(record.partition)
                    found.complete_from = max(found.complete_from, record.timestamp)
                traffic.take(record)
            progress.reach(total - tail.left())
            found.missing = tail.missing
    finally:
        progress.close()
        tail.close()
    return found


def check_order(since: int | None, until: int | None, before: int | None = None) -> None:
    """Refuse times between which nothing lies.

    Raises:
        TimeError: says which.
    """
    if before is not None and since is None:
        raise TimeError("--before is a time before the experiment: --since must say when the experiment began")
    for (name, early), (other, late) in (
        (("--since", since), ("--until", until)),
        (("--before", before), ("--since", since)),
    ):
        if early is not None and late is not None and early >= late:
            raise TimeError(f"{name} is {time_words(early)}, {other} is {time_words(late)}: nothing lies between them")


def _times_text(since: int | None, until: int | None, before: int | None) -> str:
    text = "all that Kafka has" if since is None else f"from {time_words(since)}"
    if until is not None:
        text += f" until {time_words(until)}"
    return text if before is None else f"{text}, pre-experiment clicks from {time_words(before)}"
