"""The benchmark of a take-over, on a broker that notices a killed member."""

import argparse
import io

import pytest
from rich.console import Console

from stream.bench import takeover
from stream.errors import StreamError
from stream.local.broker import Broker

QUIET = Console(file=io.StringIO())


def test_a_broker_that_keeps_the_partitions_of_a_killed_member_is_refused() -> None:
    with pytest.raises(StreamError, match="--broker kafka"):
        takeover.run(argparse.Namespace(quick=True, broker="embedded"), QUIET)


@pytest.mark.slow
@pytest.mark.durable_broker
def test_every_case_is_measured(broker: Broker) -> None:
    findings = takeover.run(argparse.Namespace(quick=True, broker=broker.bootstrap), QUIET)
    rows = findings.tables["results"]
    assert [row["the other worker begins with"] for row in rows] == ["standby copy", "snapshot", "log"]
    assert all(0 < row["seconds"] < 60 for row in rows)
    assert findings.picture().startswith(b"\x89PNG")
