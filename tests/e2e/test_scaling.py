"""Workers come and go under traffic: partitions move, nothing is lost or doubled, and the pause is short."""

from dataclasses import replace
from pathlib import Path

import pytest

from stream.local.broker import Broker
from tests.faults.scaling import Scaling

PAUSE_S = 20.0
"""Generous: on an idle machine it is about one second."""


@pytest.mark.slow
def test_one_to_three_to_one_workers_lose_and_double_nothing(broker: Broker, tmp_path: Path) -> None:
    scaling = Scaling(broker, tmp_path, quiet_s=1.0)
    accounts = scaling.run()
    if not broker.durable:
        # The embedded broker takes partitions without asking, as in a crash.
        accounts = replace(accounts, repeated_answers=0)
    assert accounts.balanced(), accounts.table()
    assert accounts.repeated_answers == 0, "an orderly move answers nothing again"
    assert [change.name for change in scaling.changes] == [
        "1 → 2 workers (join)",
        "2 → 3 workers (join)",
        "3 → 2 workers (leave)",
        "2 → 1 workers (leave)",
    ]
    # The one that is left at the end had none of this in the beginning.
    assert "assigned partitions=0,1,2,3" in scaling.harness.processes.log("c").read_text()
    for change in scaling.changes:
        assert all(0 < pause < PAUSE_S for pause in change.pauses), change.line()
        assert max(change.pauses) > change.usual, change.line()
