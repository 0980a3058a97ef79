"""A producer of behaviours at a steady rate, in a process of its own: `python -m … BOOTSTRAP TOPIC RATE`."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from confluent_kafka import Producer

from stream.schema.events import Behavior, encode_json

_TURN_S = 0.02
_EVENTS = 50_000
_USERS, _ITEMS, _CATEGORIES = 20_000, 100_000, 500


@contextmanager
def behaviors_at(rate: int, bootstrap: str, topic: str) -> Iterator[None]:
    """Write so many behaviours a second while the block runs."""
    child = subprocess.Popen([sys.executable, "-m", __name__, bootstrap, topic, str(rate)])
    try:
        yield
    finally:
        child.terminate()
        child.wait()


def _produce(bootstrap: str, topic: str, rate: int) -> None:
    rng = np.random.default_rng(0)
    users = rng.integers(0, _USERS, _EVENTS).tolist()
    items = np.minimum(rng.pareto(1.1, _EVENTS) * 20, _ITEMS - 1).astype(int).tolist()
    now = time.time_ns() // 1_000_000
    events = [
        (f"user-{user}", encode_json(Behavior(f"user-{user}", f"item-{item}", now, f"category-{item % _CATEGORIES}")))
        for user, item in zip(users, items, strict=True)
    ]
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 20})
    began, sent = time.monotonic(), 0
    while True:
        due = int(rate * (time.monotonic() - began))
        for number in range(sent, due):
            user, value = events[number % _EVENTS]
            producer.produce(topic, value, user)
            if not number % 1000:
                producer.poll(0)
        sent = max(sent, due)
        producer.poll(0)
        time.sleep(_TURN_S)


if __name__ == "__main__":
    _produce(sys.argv[1], sys.argv[2], int(sys.argv[3]))
