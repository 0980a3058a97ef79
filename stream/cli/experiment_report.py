"""`samstream experiment report`: the verdict on live traffic, from the outcomes that Kafka has."""

import argparse
import time

from rich.console import Console

from stream.cli.outcomes import read_traffic
from stream.errors import TimeError
from stream.experiment.ledger import Ledger
from stream.experiment.plan import Experiment, read
from stream.experiment.serving_cost import ServingCosts
from stream.kafka.clients import check_connection
from stream.report.live_report import live_report, missing_words
from stream.report.sentences import headline
from stream.report.writer import write_experiment
from stream.runtime.timestamps import parse_time, time_words
from stream.schema.topics import Topics
from stream.settings import Settings


def run_report(arguments: argparse.Namespace, settings: Settings) -> int:
    """Read the outcomes of `arguments.file`'s experiment and write the report; returns the exit status."""
    experiment = read(arguments.file)
    now = time.time()
    since, until, before = (
        None if text is None else parse_time(text, now=now)
        for text in (arguments.since, arguments.until, arguments.before)
    )
    _check_order(since, until, before)
    console = Console()
    check_connection(settings.kafka)
    ledger, answers = Ledger(since=since, until=until, before=before), ServingCosts()
    earliest = before if before is not None else since
    # An impression may be ahead of the clock by so much, and of its outcome with it.
    begin = None if earliest is None else max(0, earliest - round(1000 * settings.worker.max_future_s))
    found = read_traffic(settings.kafka, Topics(settings.topics.prefix), ledger, answers, begin=begin)
    said: dict[str, str | int | float] = {"times": _times_words(since, until, before), "outcomes read": found.outcomes}
    report, trace = live_report(Experiment.of(experiment), ledger, answers, found, salt=experiment.salt, settings=said)
    if found.cut:
        console.print(f"warning: outcomes may be missing. {missing_words(found)}", highlight=False, soft_wrap=True)
    for line in (headline(report), *(found.sentence for found in report.interleaving)):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"report: {write_experiment(arguments.report, report, trace)}")
    return 0


def _check_order(since: int | None, until: int | None, before: int | None) -> None:
    if before is not None and since is None:
        raise TimeError("--before is the time before the experiment: say with --since when that began")
    for (name, early), (other, late) in (
        (("--since", since), ("--until", until)),
        (("--before", before), ("--since", since)),
    ):
        if early is not None and late is not None and early >= late:
            raise TimeError(f"{name} is {time_words(early)}, {other} is {time_words(late)}: nothing lies between them")


def _times_words(since: int | None, until: int | None, before: int | None) -> str:
    said = "all that Kafka has" if since is None else f"from {time_words(since)}"
    if until is not None:
        said += f" until {time_words(until)}"
    return said if before is None else f"{said}, users' time before from {time_words(before)}"
