"""The job `samstream bandit`: follows the outcomes of those who explore, and writes the shares of all others."""

import logging
import threading
import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from stream.bandit.metrics import BanditMetrics
from stream.errors import SettingsError
from stream.experiment.explorer_counts import ExplorerCounts
from stream.experiment.shares_in_force import SharesInForce
from stream.experiment.statistics.effect import CLICKS, SHOWN
from stream.experiment.thompson import thompson_shares
from stream.kafka.clients import to_record
from stream.kafka.erasure_feed import read_erasures
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.kafka.shares_feed import SharesFeed
from stream.kafka.topic_admin import verify
from stream.kafka.topic_watch import TopicWatch
from stream.runtime.closing import Resources
from stream.runtime.health import Health
from stream.runtime.logs import log
from stream.runtime.metrics import Totals
from stream.runtime.metrics_server import MetricsServer
from stream.schema.erasures import Erasures, Voids
from stream.schema.events import DECODE_ERRORS, decode_outcome
from stream.schema.record import Record
from stream.schema.shares import SharesStep, encode_shares
from stream.schema.topics import Topics
from stream.settings import Settings

_logger = logging.getLogger("samstream.bandit")

_READ_S = 0.5
_LEAST_CHANGE = 0.01
"""Shares that would change by less than this stay: nobody is moved for nothing."""


def run_bandit(settings: Settings, stop: threading.Event, begun: threading.Event) -> None:
    """Choose shares until `stop` is set. All that it knows is in Kafka: one that was killed is started again.

    Args:
        settings: the configuration, the same as the workers'.
        stop: ends the job.
        begun: is set when Kafka has given all that the work begins with.

    Raises:
        StreamError: when the work cannot go on.
    """
    if not settings.bandit.on:
        raise SettingsError("there is no bandit: set bandit.explore below 1, for the workers and the monitor as well")
    topics = Topics(settings.topics.prefix)
    registry = CollectorRegistry()
    metrics, health = BanditMetrics(registry), Health("bandit", registry)
    with Resources() as resources:
        resources.add(MetricsServer(settings.bandit.metrics, registry, health))
        verify(settings.kafka, topics, configured=settings.topics.partitions)
        shares = SharesInForce(settings)
        feed = resources.add(SharesFeed(settings.kafka, topics.experiment_shares, shares.add))
        feed.start()
        reader = TopicReader(
            settings.kafka, [topics.outcomes], from_beginning=True, on_missing=settings.topics.on_missing_records
        )
        resources.add(reader)
        producer = ReliableProducer(settings.kafka)
        used = (topics.outcomes, topics.experiment_shares)
        resources.add(TopicWatch(settings.kafka, used, health.report_trouble))
        bandit = Bandit(settings, shares, read_erasures(settings.kafka, topics))
        log(_logger, "started", experiment=settings.experiment.name, shares=_words(shares.newest))
        begun.set()
        totals, read = Totals(), 0
        while not stop.is_set():
            feed.check()
            messages = reader.read(_READ_S)
            for message in messages:
                bandit.add(to_record(message))
            read += len(messages)
            # What was there at the start is read first: shares by a part of the clicks would move users for nothing.
            step = bandit.choose(round(1000 * time.time())) if reader.at_end() else None
            if step is not None:
                producer.send(topics.experiment_shares, encode_shares(step), key=step.experiment)
                producer.flush()
                metrics.steps.inc()
                log(_logger, "chosen", begin=step.begin, shares=_words(step.shares), best=_words(step.best))
            for arm, share in shares.newest.items():
                metrics.share.labels(arm).set(share)
            for arm, probability in bandit.best.items():
                metrics.best.labels(arm).set(probability)
            totals.set(metrics.foreign, bandit.foreign)
            totals.set(metrics.without_propensity, bandit.without_propensity)
            health.note(bandit.notes())
            health.report(done=read, lag=reader.lag())


class Bandit:
    """Decides when which shares are to be written; knows no Kafka client.

    Args:
        settings: arms, salt and bandit.
        shares: those in force; somebody else adds what was written.
        erasures: users who were erased: what was answered before that does not count.
    """

    def __init__(self, settings: Settings, shares: SharesInForce, erasures: Erasures) -> None:
        self._settings, self._shares = settings, shares
        self._counts = ExplorerCounts(settings)
        self._voids: dict[int, Voids] = {}
        self._erasures = erasures
        self._next_look = 0.0
        self.best: Mapping[str, float] = {}
        """Arm → the probability that its click rate is the highest, as of the last look; empty before the first."""

    @property
    def without_propensity(self) -> int:
        """Outcomes of explorers that workers without a bandit have answered: nothing is learned from them."""
        return self._counts.without_propensity

    def notes(self) -> list[str]:
        """Return what keeps the bandit from learning, in words; empty when nothing does."""
        if self._counts.newest_has_propensity:
            return []
        return [
            f"{self.without_propensity} outcomes so far, the newest among them, name no probability of their arm:"
            " workers without a bandit answered them. Set bandit.explore in the workers' settings as here"
        ]

    @property
    def foreign(self) -> int:
        """Outcomes of explorers that were another experiment's."""
        return self._counts.foreign

    def add(self, record: Record) -> None:
        """Add a record of `outcomes`."""
        try:
            outcome = decode_outcome(record.value or b"")
        except DECODE_ERRORS:
            return
        if record.partition not in self._voids:
            self._voids[record.partition] = voids = Voids(self._erasures.of(record.partition))
            voids.take()
        if not self._voids[record.partition].answer(outcome.user, outcome.read_to):
            self._counts.add(record.partition, outcome)

    def choose(self, now: int) -> SharesStep | None:
        """Return the shares to write now (ms); None while the present ones hold, or nothing can be told yet."""
        bandit = self._settings.bandit
        every, notice = round(1000 * bandit.every_s), round(1000 * bandit.notice_s)
        begin = now + notice
        if now < self._next_look or begin < self._shares.begun + every:
            return None
        # Again when what is written now should have been read, or a good while later.
        self._next_look = now + max(notice, every / 10)
        moments = self._counts.moments()
        found = thompson_shares(moments, floor=bandit.floor)
        if found is None:
            return None
        self.best = found.best
        if max(abs(share - self._shares.newest[arm]) for arm, share in found.shares.items()) < _LEAST_CHANGE:
            return None
        return SharesStep(
            experiment=self._settings.experiment.name,
            salt=self._settings.salt,
            begin=begin,
            shares=found.shares,
            best=found.best,
            shown={arm: int(each.total[SHOWN]) for arm, each in moments.items()},
            clicks={arm: int(each.total[CLICKS]) for arm, each in moments.items()},
        )


def _words(shares: Mapping[str, float]) -> str:
    return ",".join(f"{arm}:{share:.4f}" for arm, share in shares.items())
