"""Puts a trainer, or one rank of it, together and runs it: `samstream trainer`."""

import logging
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from model.device import configure_torch, resolve
from model.distributed.group import Group, device_of_rank, rank_of_environment
from model.distributed.ranks import Ranks
from model.embedding.shards import Rank
from model.peers import ALONE
from model.serialization import checkpoint
from model.statistics.primary import StatisticsPrimary
from stream.errors import SettingsError
from stream.kafka.clients import consumer
from stream.kafka.erasure_feed import ErasureFeed
from stream.kafka.identity import LogWatch
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.kafka.topic_admin import record_limits, verify
from stream.kafka.topic_watch import TopicWatch
from stream.registry.formats import open_formats
from stream.runtime.closing import Resources
from stream.runtime.failpoints import failpoint
from stream.runtime.health import Health
from stream.runtime.logs import log
from stream.runtime.metrics_server import MetricsServer
from stream.schema.erasures import Erasures
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.trainer.behavior_counter import BehaviorCounter
from stream.trainer.erasing import Erasing
from stream.trainer.metrics import TrainerMetrics
from stream.trainer.predictions import predictions_path, sole_logger
from stream.trainer.resume import StartOffsets, resume_training
from stream.trainer.samples import SampleReader
from stream.trainer.sequence_states import SequenceStates
from stream.trainer.team import SOLO, RankTeam, Team, address_of_rank, check_settings, partitions_of
from stream.trainer.trainer import Trainer
from stream.trainer.training import Training

_logger = logging.getLogger("samstream.trainer")


def run_trainer(settings: Settings, stop: threading.Event, begun: threading.Event) -> None:
    """Train the arms of `trainer.arms` until `stop` is set; then publish, save and return.

    Of two trainers, workers hear only the one that began later. Where `RANK` and `WORLD_SIZE` say so, this is one rank
    of a trainer.

    Args:
        settings: the configuration; arms and models as the workers have them.
        stop: ends the training in order.
        begun: is set when Kafka and the disk have given all that the training begins with.

    Raises:
        StreamError: when the work cannot go on.
        CheckpointError: when no checkpoint is whole though there are some, when the newest whole one is of other
            models, when another trainer works in the same directory, or when none can be written.
        PeerError: when another rank has ended.
    """
    topics, rank = Topics(settings.topics.prefix), rank_of_environment()
    configure_torch(threads=settings.trainer.threads)
    registry = CollectorRegistry()
    metrics, health = TrainerMetrics(registry), Health("trainer", registry)
    device = device_of_rank(resolve(settings.trainer.device))
    with Resources() as resources:
        group: Group | None = None
        if rank.ranks > 1:
            if settings.trainer.progressive_log:
                raise SettingsError("trainer.progressive_log needs a trainer of one rank: leave it empty, or run one")
            group = resources.add(Group(device, timeout_s=settings.trainer.rank_timeout_s, on_exchange=failpoint))
        team: Team = SOLO if group is None else RankTeam(group)
        training = Training(settings, device=str(device), peers=ALONE if group is None else Ranks(group))
        check_settings(settings, team)
        verify(settings.kafka, topics, configured=settings.topics.partitions)
        sender = ReliableProducer(settings.kafka, record_limits(settings.kafka, topics))
        resources.add(MetricsServer(address_of_rank(settings.trainer.metrics, rank), registry, health))
        if rank.number == 0:
            resources.enter(checkpoint.sole_writer(Path(settings.trainer.directory)))
        if settings.trainer.progressive_log:
            for arm in training.arms:
                resources.enter(sole_logger(predictions_path(settings, arm)))
        resources.add(training)
        asker = resources.add(consumer(settings.kafka, {"group.id": "samstream-trainer"}))
        statistics = _statistics(settings, training, rank)
        watches = {topic: LogWatch(settings.kafka) for topic in (topics.samples, topics.behaviors)}
        logs = {topic: watch.begin([topic])[topic] for topic, watch in watches.items()}
        start = resume_training(training, statistics, settings, logs, asker, stop, team)
        mine = partitions_of(rank, logs[topics.samples].partitions)

        def reader(
            topic: str, begin: StartOffsets, watch: LogWatch | None = None, only: Sequence[int] | None = None
        ) -> TopicReader:
            read = TopicReader(
                settings.kafka,
                [topic],
                from_beginning=True,
                offsets={(topic, number): offset for number, offset in begin.offsets.items()},
                on_missing=settings.topics.on_missing_records,
                watch=watch,
                only=only,
            )
            read.timestamps |= {(topic, number): ms for number, ms in begin.timestamps.items()}
            return read

        formats = open_formats(settings, topics, resources)
        erasures = Erasures()
        feed = resources.add(ErasureFeed(settings.kafka, topics, settings.erasure_group("trainer"), erasures))
        feed.start()
        states = SequenceStates(
            settings,
            watches[topics.behaviors],
            asker,
            mine,
            partial(_check, stop),
            erasures=erasures,
            on_erased=training.forget,
            formats=formats,
        )
        try:
            sequences = resources.add(states.open(start.checkpoint, start.samples.offsets))
        except _StoppedError:
            return
        of_samples = resources.add(reader(topics.samples, start.samples, watches[topics.samples], mine))
        samples = SampleReader(of_samples, sequences)
        counter = None
        if statistics is not None:
            behaviors = reader(topics.behaviors, start.behaviors)
            max_future_s = settings.worker.max_future_s
            counter = BehaviorCounter(statistics, behaviors, max_future_s=max_future_s, formats=formats)
            resources.add(counter).start()
        used = (*watches, topics.model_updates, topics.dead_letters, topics.erasures)
        resources.add(TopicWatch(settings.kafka, used, health.report_trouble))
        updates = LogWatch(settings.kafka)
        updates.begin([topics.model_updates])
        erasing = Erasing(settings, sequences, erasures, feed)
        trainer = Trainer(
            settings,
            topics,
            training,
            counter,
            samples,
            sequences,
            erasing,
            updates,
            sender,
            metrics,
            health,
            team,
            epoch=start.epoch,
            formats=formats,
        )
        if group is not None:
            metrics.watch_exchanges(group.sent)
        begun.set()
        trainer.run(stop)


def _statistics(settings: Settings, training: Training, rank: Rank) -> StatisticsPrimary | None:
    """Return what is to be counted here; None where no arm reads that, or another one counts.

    Counts of the whole stream have one owner, whose counts workers serve: the first rank of the trainer that has the
    first arm which reads them. Samples bring the numbers to all others.
    """
    reading = [arm.name for arm in settings.models if arm.spec().statistics]
    if not reading or rank.number:
        return None
    if reading[0] not in training.arms:
        log(_logger, "statistics_elsewhere", counted_by=reading[0], remedy="run a trainer that has this arm as well")
        return None
    limits = settings.statistics
    return StatisticsPrimary(settings.half_lives_s, max_rows=limits.max_rows, retention_s=limits.retention_s)


class _StoppedError(Exception):
    """It was told to stop while it began."""


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise _StoppedError
