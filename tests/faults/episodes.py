"""The kinds of fault that have a system of their own, and how they are run: all at the same time."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import pytest

from stream.local.broker import Broker
from tests.faults.accounts import Accounts
from tests.faults.episode import Episode, Setting
from tests.faults.full_disk import FullDisk
from tests.faults.more_partitions import MorePartitions
from tests.faults.recreated import Recreated
from tests.faults.retention import Retention

EPISODES: Mapping[str, type[Episode]] = MappingProxyType(
    {"recreated": Recreated, "retention": Retention, "disk": FullDisk, "partitions": MorePartitions}
)
"""Name on the command line → what happens."""


def run_episodes(
    names: Sequence[str], broker: Broker, directory: Path, *, times: int, seed: int, tell: Callable[[str], None]
) -> tuple[dict[str, Accounts], dict[str, str], dict[str, str]]:
    """Run episodes at the same time, since each mostly waits; returns accounts, failures, and what is left out and why.

    Args:
        names: which, of `EPISODES`.
        broker: where they run.
        directory: of the run.
        times: how often each kind of fault happens.
        seed: of traffic and faults.
        tell: takes a line now and then.
    """
    accounts: dict[str, Accounts] = {}
    failures: dict[str, str] = {}
    left_out: dict[str, str] = {}

    def run(name: str) -> None:
        episode = EPISODES[name]
        if episode.needs_kafka and not broker.durable:
            left_out[episode.kind] = "needs Apache Kafka"
            return
        try:
            accounts[episode.kind] = episode(Setting(broker, directory / name, times, seed, tell)).run()
        except pytest.skip.Exception as reason:
            left_out[episode.kind] = str(reason)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            failures[episode.kind] = f"{type(error).__name__}, {Path(last.filename).name}:{last.lineno}: {error}"

    with ThreadPoolExecutor(max(1, len(names))) as pool:
        list(pool.map(run, names))
    return accounts, failures, left_out
