"""`python -m tests.faults`: run a fault campaign and print what was lost (nothing) and doubled (nothing)."""

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

import msgspec

from stream.local.broker import local_broker
from stream.report.machine import this_machine, this_run
from tests.faults.campaign import Campaign


def main() -> int:
    """Run it; returns 1 when the accounts do not balance."""
    parser = argparse.ArgumentParser(prog="make faults ARGS=…", description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="faults of each kind (default 10)")
    parser.add_argument("--behaviors", type=int, default=50_000, help="behaviours to send, at least")
    parser.add_argument("--impressions", type=int, default=2_000, help="impressions to send, at least")
    parser.add_argument("--seed", type=int, default=0, help="of traffic and faults")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the accounts there")
    parser.add_argument("--broker", default="kafka" if os.environ.get("KAFKA_HOME") else "embedded")
    parser.add_argument("--directory", type=Path, help="keep state, logs and checkpoints there")
    arguments = parser.parse_args()
    # Brokers that are away are no news here.
    logging.getLogger("samstream.kafka").setLevel(logging.CRITICAL + 1)
    with (
        tempfile.TemporaryDirectory(prefix="samstream-faults-") as scratch,
        local_broker(arguments.broker, Path(scratch) / "broker") as broker,
    ):
        accounts = Campaign(
            broker,
            arguments.directory or Path(scratch),
            kills=arguments.kills,
            behaviors=arguments.behaviors,
            impressions=arguments.impressions,
            seed=arguments.seed,
            tell=lambda line: print(line, flush=True),
        ).run()
    print(accounts.table())
    if arguments.json:
        run = this_run(f"make faults ARGS='--kills {arguments.kills} --broker {arguments.broker}'")
        found = accounts.as_dict() | {"machine": msgspec.to_builtins(this_machine()), "run": run}
        arguments.json.write_text(json.dumps(found, indent=2))
    return 0 if accounts.balanced() else 1


if __name__ == "__main__":
    sys.exit(main())
