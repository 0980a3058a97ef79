"""Faust as the monitor uses it."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiokafka
import pytest
from aiokafka.errors import ConsumerStoppedError
from aiokafka.structs import TopicPartition
from faust.types import TP

from stream.monitor.application import new_app
from stream.settings import convert


def test_a_partition_whose_position_is_still_asked_for_is_not_taken_for_a_stuck_one(tmp_path: Path) -> None:
    """So it is after Kafka removed records (and for a moment after a rebalance): Faust's own check raises there."""
    settings = convert({"monitor": {"directory": str(tmp_path)}})
    sources = cast(Any, SimpleNamespace(outcomes=SimpleNamespace(partitions=3)))

    async def check() -> None:
        consumer = aiokafka.AIOKafkaConsumer()
        where = TopicPartition("outcomes", 0)
        consumer.assign([where])
        state = consumer._subscription.subscription.assignment.state_value(where)
        state.timestamp = 1  # it was read before
        consumer._fetcher = SimpleNamespace(_subscriptions=consumer._subscription)
        thread = cast(Any, new_app(settings, sources).consumer)._thread
        thread._consumer = consumer
        thread.time_started = time.monotonic()
        thread.verify_event_path(0.002, TP("outcomes", 0))

    asyncio.run(check())


def test_a_call_that_comes_while_the_consumers_thread_ends_is_refused(tmp_path: Path) -> None:
    """As the commit of a monitor that has crashed, which nobody would take out of the thread's queue any more."""
    settings = convert({"monitor": {"directory": str(tmp_path)}})
    sources = cast(Any, SimpleNamespace(outcomes=SimpleNamespace(partitions=3)))

    async def check() -> None:
        thread = cast(Any, new_app(settings, sources).consumer)._thread
        late = asyncio.ensure_future(thread.call_thread(asyncio.sleep, 0))  # its queue is not served, or no more
        await asyncio.sleep(0)
        await thread.on_thread_stop()
        with pytest.raises(ConsumerStoppedError):
            await asyncio.wait_for(late, 30)
        with pytest.raises(ConsumerStoppedError):
            await asyncio.wait_for(thread.call_thread(asyncio.sleep, 0), 30)

    asyncio.run(check())
