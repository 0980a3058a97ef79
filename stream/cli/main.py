"""The command `samstream`: subcommands that read like the jobs. Parsing only; each job is a module of its own."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from model.errors import ModelError
from state.errors import StateError
from stream.bench import BENCHES
from stream.errors import StreamError
from stream.lab import LABS
from stream.runtime import logs
from stream.runtime import signals as interrupts
from stream.settings import Settings, load

Command = Callable[[argparse.Namespace], int]

_BROKER = "embedded, kafka (Apache Kafka in KAFKA_HOME), or HOST:PORT of a running cluster"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    # Before torch is imported: its threads that wait shall not keep cores from others by spinning.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = _parser().parse_args(argv)
    logs.configure(arguments.log_level)
    command: Command = arguments.command
    interrupts.remember()
    try:
        return command(arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if interrupts.heard():
            return 130  # what was raised in a callback out of C may arrive as something else
        if not isinstance(error, (StreamError, StateError, ModelError, OSError)):
            raise
        print(f"samstream {arguments.name}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="samstream",
        description="A streaming recommender that learns while it serves.",
        epilog="Settings: --config FILE, then environment SAMSTREAM_SECTION__KEY, then --set section.key=value.",
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    demo = _command(commands, "demo", _demo, "a whole system on this machine, with simulated traffic and a report")
    _local_flags(demo)

    _command(commands, "worker", _worker, "fold behaviours, answer impressions, label clicks")
    _command(commands, "trainer", _trainer, "learn from samples, publish updates, keep checkpoints")

    _command(commands, "monitor", _monitor, "count what the arms reach, publish it, and show it on a page")

    simulate = _command(commands, "simulate", _simulate, "simulated users against a system that runs already")
    _simulation_flags(simulate, seconds=60.0, before=0)

    replay = _command(commands, "replay", _replay, "real data through the whole loop, judged progressively")
    replay.add_argument("dataset", choices=["complete-journey", "kuairand"], help="which data set")
    replay.add_argument("--data", type=Path, metavar="DIR", help="folder with its files")
    replay.add_argument("--arms", default="sam,din-50,counts", help="presets to compare (default %(default)s)")
    replay.add_argument("--report", type=Path, default=Path("report"), metavar="DIR", help="where the report goes")
    replay.add_argument("--broker", default="embedded", help=_BROKER)
    replay.add_argument("--workers", type=_count, default=1, help="worker processes (default 1)")
    replay.add_argument("--speed", type=float, help="event-time seconds a second (default: as fast as it goes)")
    replay.add_argument("--visits", type=_count, metavar="N", help="stop after N visits")
    replay.add_argument("--seed", type=int, default=0, help="chooses what is asked, and the first parameters")

    topics = _command(commands, "topics", _topics, "make or check the topics")
    topics.add_argument("action", choices=["create", "check"], help="create what is missing, or only check")

    state = _command(commands, "state", _state, "look at the state and its snapshots, check and restore them")
    state.add_argument("action", choices=["list", "verify", "restore", "show"], help="show takes --user")
    state.add_argument("--partition", type=int, metavar="N", help="only this one")
    state.add_argument("--snapshot", type=_count, metavar="N", help="restore this one, not the newest")
    state.add_argument("--user", metavar="ID", help="whose sequence to show")

    letters = _command(
        commands, "dead-letters", _dead_letters, "list the records that were refused, or send them again"
    )
    letters.add_argument("action", choices=["list", "resend"], help="resend writes to the topics they came from")
    letters.add_argument("--topic", metavar="NAME", help="only those from this topic (without the prefix)")
    letters.add_argument("--reason", metavar="TEXT", help="only those whose reason holds this text")
    letters.add_argument("--offsets", type=_range, metavar="A-B", help="only those at these offsets of dead-letters")
    letters.add_argument("--limit", type=_count, default=20, metavar="N", help="list only the newest (default 20)")
    letters.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")

    _experiment_commands(commands)

    bench = commands.add_parser("bench", help=(text := "measure both sides in one run"), description=text)
    bench.set_defaults(command=_bench, log_level="WARNING")
    bench.add_argument("bench", metavar="NAME", choices=list(BENCHES), help=", ".join(BENCHES))
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    bench.add_argument("--plot", type=Path, metavar="FILE", help="the picture (default bench-NAME.png)")
    bench.add_argument("--broker", default="embedded", help=_BROKER)
    bench.add_argument(
        "--peer-python", default=sys.executable, metavar="FILE", help="the Python that has other systems installed"
    )
    bench.add_argument("--quick", action="store_true", help="small sizes and few repeats: to see that it runs")

    text = "what length brings, what freshness brings: the real models in virtual time, without Kafka"
    lab = commands.add_parser("lab", help=text, description=text)
    lab.set_defaults(command=_lab, log_level="WARNING")
    lab.add_argument("lab", metavar="NAME", choices=list(LABS), help="; ".join(f"{n}: {t}" for n, t in LABS.items()))
    lab.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    lab.add_argument("--plot", type=Path, metavar="FILE", help="the picture (default lab-NAME.png)")
    lab.add_argument("--seed", type=int, default=0, help="of the first world; the next worlds have the next seeds")
    lab.add_argument("--worlds", type=_count, metavar="N", help="how many worlds (default: arms 2, freshness 1)")
    lab.add_argument(
        "--seconds", type=float, metavar="S", help="virtual time that counts (default: arms 450, freshness 2400)"
    )
    lab.add_argument("--visits", type=_count, metavar="N", help="of the baskets, stop after N (default all)")
    lab.add_argument("--processes", type=_count, default=2, metavar="N", help="side by side (default 2)")
    lab.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="Complete Journey (default ../shared/data/complete_journey, else the package)",
    )
    lab.add_argument("--quick", action="store_true", help="small and short, in one process: to see that it runs")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, command: Command, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=command)
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, TOML or JSON")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; repeatable")
    parser.add_argument("--bootstrap", metavar="HOST:PORT", help="short for --set kafka.bootstrap.servers=…")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser


def _experiment_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "check an experiment's file, run it with simulated users, or report on live traffic"
    experiment = commands.add_parser("experiment", help=text, description=text[0].upper() + text[1:] + ".")
    actions = experiment.add_subparsers(dest="action", required=True, metavar="ACTION")

    def file(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser.add_argument("file", type=Path, metavar="FILE", help="experiment.toml")
        return parser

    for name, text in (
        ("check", "say what the file means, what is wrong with it, and how many users it needs"),
        ("settings", "print its salt and arms for --config"),
    ):
        parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        parser.set_defaults(command=_experiment, log_level="WARNING")
        file(parser)
    run = _command(actions, "run", _experiment_run, "run it on this machine, with simulated users and a report")
    _local_flags(file(run))
    text = "read the outcomes of live traffic from Kafka, and write the verdict and its report"
    report = file(_command(actions, "report", _experiment_report, text))
    when = "2026-03-01, 2026-03-01T18:00 (UTC unless it says +01:00), or 90m, 12h, 7d for so long ago"
    report.add_argument("--since", metavar="TIME", help=f"impressions from then on: {when} (default: all in Kafka)")
    report.add_argument("--until", metavar="TIME", help="impressions before then (default: now)")
    report.add_argument("--before", metavar="TIME", help="clicks from then until --since tell users apart (CUPED)")
    report.add_argument("--report", type=Path, default=Path("report"), metavar="DIR", help="where the report goes")


def _local_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--broker", default="embedded", help=_BROKER)
    parser.add_argument("--workers", type=_count, default=1, help="worker processes (default 1)")
    parser.add_argument("--no-monitor", action="store_true", help="without the monitor and its live page")
    _simulation_flags(parser, seconds=110.0, before=4000)


def _simulation_flags(parser: argparse.ArgumentParser, *, seconds: float, before: int) -> None:
    parser.add_argument("--seconds", type=float, default=seconds, help="length of the traffic (default %(default).0f)")
    parser.add_argument("--rate", type=float, default=40.0, help="impressions a second (default %(default).0f)")
    parser.add_argument("--users", type=_count, default=400, help="simulated users (default %(default)s)")
    parser.add_argument("--history", type=_count, default=1000, help="behaviours of each before (default %(default)s)")
    text = "impressions before, of random items to everybody; their clicks sharpen the verdict (default %(default)s)"
    parser.add_argument("--pre-impressions", type=_natural, default=before, metavar="N", help=text)
    parser.add_argument("--report", type=Path, default=Path("report"), metavar="DIR", help="where the report goes")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live view")
    parser.add_argument("--seed", type=int, default=0, help="of the world and its users")
    parser.add_argument(
        "--world", action="append", default=[], metavar="KEY=VALUE", help="a number of the world; repeatable"
    )


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _natural(text: str) -> int:
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _range(text: str) -> range:
    first, dash, last = text.partition("-")
    try:
        return range(int(first), int(last if dash else first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError("write it as 5 or as 5-17") from None


def _worker(arguments: argparse.Namespace) -> int:
    from stream.worker.worker import run_worker

    run_worker(_settings(arguments), _stop_event())
    return 0


def _trainer(arguments: argparse.Namespace) -> int:
    from stream.trainer.trainer import run_trainer

    settings = _settings(arguments)
    os.nice(settings.trainer.nice)  # of this thread, which learns, and of those that it makes
    run_trainer(settings, _stop_event())
    return 0


def _monitor(arguments: argparse.Namespace) -> int:
    from stream.monitor.run import run_monitor

    return run_monitor(_settings(arguments))


def _topics(arguments: argparse.Namespace) -> int:
    from stream.kafka import topic_admin as topics
    from stream.kafka.topic_rules import Needs
    from stream.schema.topics import Topics

    settings = _settings(arguments)
    names = Topics(settings.topics.prefix)
    needs = Needs.of(settings)
    if arguments.action == "check":
        report = topics.inspect(settings.kafka, names, needs=needs)
        print(f"all topics are there; those keyed by user have {report.partitions} partitions")
    else:
        report = topics.ensure(
            settings.kafka,
            names,
            partitions=settings.topics.partitions,
            replication=settings.topics.replication,
            needs=needs,
        )
        print(f"created: {', '.join(report.created) or 'none'}\nexisting: {', '.join(report.existing) or 'none'}")
    for finding in report.findings:
        print(finding)
    return 1 if any(finding.severity == "error" for finding in report.findings) else 0


def _state(arguments: argparse.Namespace) -> int:
    from stream.cli.state import run_state

    return run_state(arguments, _settings(arguments))


def _dead_letters(arguments: argparse.Namespace) -> int:
    from stream.cli.dead_letters import run_dead_letters

    return run_dead_letters(arguments, _settings(arguments))


def _experiment(arguments: argparse.Namespace) -> int:
    from stream.cli.experiment import run_experiment

    return run_experiment(arguments)


def _experiment_run(arguments: argparse.Namespace) -> int:
    from stream.cli.simulate import run_experiment

    return run_experiment(arguments)


def _experiment_report(arguments: argparse.Namespace) -> int:
    from stream.cli.experiment_report import run_report

    return run_report(arguments, _settings(arguments))


def _bench(arguments: argparse.Namespace) -> int:
    from stream.cli.bench import run_bench

    return run_bench(arguments)


def _lab(arguments: argparse.Namespace) -> int:
    from stream.cli.lab import run_lab

    return run_lab(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    from stream.cli.simulate import run_demo

    return run_demo(arguments)


def _simulate(arguments: argparse.Namespace) -> int:
    from stream.cli.simulate import run_simulation

    return run_simulation(arguments)


def _replay(arguments: argparse.Namespace) -> int:
    from stream.cli.replay import run_replay

    return run_replay(arguments)


def _settings(arguments: argparse.Namespace) -> Settings:
    overrides = list(arguments.set)
    if arguments.bootstrap:
        overrides.append(f"kafka.bootstrap.servers={arguments.bootstrap}")
    return load(arguments.config, overrides=overrides)


def _stop_event() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set, so that the job can end in order; the second one ends it at once."""
    stop = threading.Event()

    def heard(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, heard)
    return stop


if __name__ == "__main__":
    sys.exit(main())
