"""A made-up log whose fold is known, and `python -m tests.state.folding DIR`, which folds it until killed."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from state.behavior import BehaviorArray
from state.partition import Partition
from tests.state.support import records

TOPIC = "behaviors"
LENGTH, SLACK = 150, 40
USERS = [f"user-{number}" for number in range(23)]
OPEN = 40
"""A pending value lives for this many records."""


def user_of(place: int) -> str:
    return USERS[place * place % len(USERS)]


def open_state(path: Path) -> Partition:
    # A small cache: users leave memory and come back all the time.
    return Partition.open(path, length=LENGTH, slack=SLACK, cache_bytes=30_000)


def expected_pending(offset: int) -> dict[str, bytes]:
    return {str(place): str(place).encode() for place in range(max(0, offset - OPEN), offset)}


def fold(partition: Partition, start: int, stop: int) -> None:
    """Apply the records `start` to `stop - 1` of the log."""
    for user, fresh in grouped(start, stop):
        partition.sequences.append(user, fresh)
    for place in range(start, stop):
        partition.pending.put(str(place), str(place).encode())
        partition.pending.delete(str(place - OPEN))


def grouped(start: int, stop: int) -> Iterator[tuple[str, BehaviorArray]]:
    every = records(start, stop)
    users = [user_of(place) for place in range(start, stop)]
    for user in dict.fromkeys(users):
        yield user, every[[known == user for known in users]]


def main() -> None:
    partition = open_state(Path(sys.argv[1]))
    offset = partition.offsets.get(TOPIC, 0)
    dice = random.Random(offset)
    while True:
        stop = offset + dice.randint(1, 400)
        fold(partition, offset, stop)
        print("folded", stop, flush=True)
        partition.commit({TOPIC: stop})
        print("committed", stop, flush=True)
        offset = stop


if __name__ == "__main__":
    main()
