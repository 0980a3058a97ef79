"""`python -m tests.faults`: run a fault campaign and print what was lost (nothing) and doubled (nothing)."""

import logging
import os
import sys

import msgspec

from stream.report.machine import this_machine, this_run
from tests.faults.campaign import Campaign
from tests.faults.command import broker_and_directory, conclude, parser, tell
from tests.faults.episodes import EPISODES, run_episodes
from tests.faults.results import Results

_KILLS = "kills"


def main() -> int:
    """Run it; returns 1 when the accounts do not balance."""
    flags = parser("make faults ARGS=…", __doc__)
    flags.add_argument("--kills", type=int, default=10, help="faults of each kind (default 10)")
    flags.add_argument("--behaviors", type=int, default=50_000, help="behaviours to send, at least")
    flags.add_argument("--impressions", type=int, default=2_000, help="impressions to send, at least")
    flags.add_argument("--seed", type=int, default=0, help="of traffic and faults")
    flags.add_argument("--ranks", type=int, default=1, help="of the trainer (default 1); faults strike one of them")
    flags.add_argument("--only", action="append", choices=[_KILLS, *EPISODES], help="this part alone; again for more")
    arguments = flags.parse_args()
    wanted = arguments.only or [_KILLS, *EPISODES]
    os.environ["PYTHONFAULTHANDLER"] = "1"  # a job that is aborted says where its threads are
    # Brokers that are away are no news here.
    logging.getLogger("samstream.kafka").setLevel(logging.CRITICAL + 1)
    with broker_and_directory(arguments) as (broker, directory):
        traffic = None
        if _KILLS in wanted:
            traffic = Campaign(
                broker,
                directory,
                kills=arguments.kills,
                behaviors=arguments.behaviors,
                impressions=arguments.impressions,
                seed=arguments.seed,
                ranks=arguments.ranks,
                tell=tell,
            ).run()
        results = Results(
            traffic,
            *run_episodes(
                [name for name in EPISODES if name in wanted],
                broker,
                directory,
                times=arguments.kills,
                seed=arguments.seed,
                tell=tell,
            ),
        )
    ranks = f" --ranks {arguments.ranks}" if arguments.ranks > 1 else ""
    run = this_run(f"make faults ARGS='--kills {arguments.kills} --broker {arguments.broker}{ranks}'")
    figures = results.as_dict() | {"machine": msgspec.to_builtins(this_machine()), "run": run}
    return conclude(arguments, results, figures)


if __name__ == "__main__":
    sys.exit(main())
