"""Where a trainer resumes: the newest whole checkpoint, the offsets in it, and an epoch above all earlier ones."""

import logging
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from confluent_kafka import Consumer

from model.embedding.shards import ONLY, Rank
from model.errors import CheckpointError
from model.serialization import checkpoint
from model.serialization.checkpoint import ArmState, NewestCheckpoint
from model.statistics.primary import STATISTICS, StatisticsPrimary
from stream.errors import TrainerError
from stream.kafka.identity import compare
from stream.kafka.reader import TopicReader
from stream.runtime.closing import Resources
from stream.runtime.logs import log
from stream.schema.position import LogIdentity, kept_origin
from stream.schema.topics import Topics
from stream.schema.update_headers import read_update_headers
from stream.settings import Settings
from stream.trainer.arm_trainer import ArmTrainer, not_finite
from stream.trainer.predictions import predictions_directory
from stream.trainer.team import SOLO, Team, partitions_of
from stream.trainer.training import Training

_logger = logging.getLogger("samstream.trainer")

_TOKEN = "ranks"
"""File in the directory of checkpoints by which ranks see that they have the same."""
_LOOK_BACK = 200
"""Records of `model-updates` among whose last the newest epoch is looked for first."""


@dataclass(frozen=True, slots=True)
class StartOffsets:
    """Where a topic is read on from.

    Attributes:
        offsets: partition number → offset to read on from; a partition not named begins at its oldest.
        timestamps: partition number → Kafka timestamp (ms) of the record before that offset, where it is known.
    """

    offsets: Mapping[int, int] = field(default_factory=dict)
    timestamps: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainingStart:
    """Where a trainer begins: its epoch, the checkpoint it goes on from, and where it reads on from.

    `behaviors` is where the statistics have read to; the sequences lie in the checkpoint, with their own offsets.
    """

    epoch: int
    checkpoint: Path | None
    samples: StartOffsets
    behaviors: StartOffsets


def resume_training(
    training: Training,
    statistics: StatisticsPrimary | None,
    settings: Settings,
    logs: Mapping[str, LogIdentity],
    consumer: Consumer,
    stop: threading.Event,
    team: Team = SOLO,
) -> TrainingStart:
    """Take up the newest whole checkpoint and begin the next epoch; of several ranks, each what it owns.

    Args:
        training: the arms.
        statistics: what is counted for them; None where none of them reads that.
        settings: the configuration.
        logs: topic → which log it is now: `samples` and `behaviors`.
        consumer: asks for offsets.
        stop: ends the search for the newest epoch.
        team: the ranks; the first finds the epoch.

    Raises:
        CheckpointError: when no checkpoint is whole though there are some, or the newest whole one is of other models,
            of another topic or of another cluster.
        TrainerError: when the ranks do not see the same directory.
        KafkaClientError: when Kafka cannot be read.
    """
    topics, directory = Topics(settings.topics.prefix), Path(settings.trainer.directory)
    found = load_together(directory, team)
    saved, first = found.checkpoint, team.rank.number == 0
    samples = behaviors = StartOffsets()
    if saved is not None:
        mine = partitions_of(team.rank, logs[topics.samples].partitions)
        offsets = {number: saved.offsets[number] for number in mine if number in saved.offsets}
        samples = _start(offsets, saved.origins, logs[topics.samples], consumer, directory)
        used = training.arms.keys() | ({STATISTICS} if statistics is not None or not first else set())
        if statistics is not None and STATISTICS in saved.arms:
            state = saved.arms[STATISTICS]
            behaviors = _resume_statistics(statistics, state, logs[topics.behaviors], consumer, directory)
        if forgotten := saved.arms.keys() - used:
            log(
                _logger,
                "arms_forgotten",
                logging.WARNING,
                arms=",".join(sorted(forgotten)),
                path=found.path,
                remedy=f"what they learned goes with this one, after {settings.trainer.checkpoints_kept} more: copy it"
                " to keep it; an arm that was renamed starts afresh under its new name",
            )
        for name, arm in training.arms.items():
            if name in saved.arms:
                resume_arm(name, arm, saved.arms[name], found.path, settings)
        training.seen.restore(saved.seen)
        if first:  # counts of all ranks add up
            training.counts.update(saved.counts)
    epoch = 1 + max(saved.epoch if saved else 0, _published_epoch(settings, stop) if first else 0)
    epoch = int(team.share(str(epoch).encode())[0])
    if statistics is not None:
        statistics.begin_epoch(epoch)
    for arm in training.arms.values():
        arm.learner.begin_epoch(epoch)
        if settings.trainer.progressive_log:
            arm.open_log(predictions_directory(settings))
    log(
        _logger,
        "started",
        arms=",".join(training.arms),
        epoch=epoch,
        **({"rank": team.rank.number, "ranks": team.rank.ranks} if team.rank.ranks > 1 else {}),
        resumed=saved is not None,
        samples=training.counts["samples"],
    )
    return TrainingStart(epoch, found.path if saved is not None else None, samples, behaviors)


def _resume_statistics(
    statistics: StatisticsPrimary, state: ArmState, behaviors: LogIdentity, consumer: Consumer, directory: Path
) -> StartOffsets:
    """Take up counts with the offsets they have reached; where either no longer holds, all is counted from the oldest.

    Counts and offsets go together: of a topic that was recreated, what it holds again would count twice.
    """
    saved = {int(number): offset for number, offset in state.progress["offsets"].items()}
    origins = {int(number): origin for number, origin in state.progress["origins"].items()}
    start = _start(saved, origins, behaviors, consumer, directory, recount=True)
    reason = "" if start.offsets.keys() == saved.keys() else f"{behaviors.topic} was recreated, or has lost its end"
    if not reason:
        try:
            statistics.load_state(state.tensors)
        except CheckpointError as error:
            reason = str(error)
    if reason:
        log(_logger, "statistics_start_over", logging.WARNING, reason=reason)
        return StartOffsets()
    return start


def _start(
    offsets: Mapping[int, int],
    origins: Mapping[int, str],
    now: LogIdentity,
    consumer: Consumer,
    directory: Path,
    *,
    recount: bool = False,
) -> StartOffsets:
    """Return those offsets of a checkpoint that still are offsets of a topic.

    Args:
        offsets: partition number → offset.
        origins: partition number → what that offset is an offset of.
        now: which log the topic is now.
        consumer: asks for offsets.
        directory: where the checkpoint lies.
        recount: drop offsets beyond the topic's end as well, since all is counted again.

    Raises:
        CheckpointError: for offsets of another topic or cluster, and beyond the topic's end unless it is recounted.
    """
    kept = {}
    for number, offset in offsets.items():
        # A checkpoint from before origins were kept is only compared with the topic's end.
        origin = kept_origin(origins.get(number), now)
        difference = compare(consumer, origin, now, number, offset)
        if difference in ("cluster", "topic"):
            raise CheckpointError(
                f"the checkpoints in {directory} have learned from topic {origin.log.topic!r} of cluster"
                f" {origin.log.cluster}, and this trainer reads {now.topic!r} of cluster {now.cluster}: give"
                " each topics.prefix and cluster a trainer.directory of its own, or move the checkpoints away"
            )
        if difference == "end" and not recount:
            raise CheckpointError(
                f"the checkpoints in {directory} have learned from {now.topic}/{number} up to offset {offset},"
                f" which is beyond its end: Kafka has lost records. Move {directory} away to learn everything again"
                " from what Kafka retains."
            )
        if difference in ("", "partitions"):
            kept[number] = origin
            continue
        log(
            _logger,
            "topic_recreated",
            logging.WARNING,
            topic=now.topic,
            partition=number,
            dropped_offset=offset,
            was=origin.log.topic_id or "unknown",
            now=now.topic_id or "unknown",
            begins="at the oldest record",
        )
    return StartOffsets(
        {number: offsets[number] for number in kept}, {number: origin.timestamp for number, origin in kept.items()}
    )


def resume_arm(name: str, arm: ArmTrainer, state: ArmState, path: Path | None, settings: Settings) -> None:
    """Take up an arm's state.

    Raises:
        CheckpointError: when it does not fit the settings; names arm, path, settings and remedy.
    """
    if why := not_finite(state):
        raise CheckpointError(
            f"arm {name!r} had diverged in checkpoint {path}: {why}. Move that checkpoint away to go on from the"
            f" one before, with smaller steps in optim of arm {name!r}."
        )
    try:
        arm.resume(state)
    except CheckpointError as error:
        raise CheckpointError(
            f"arm {name!r} cannot go on from checkpoint {path}: {error}. Set preset, model and optim.max_rows of"
            f" arm {name!r}, and seed, as they were; or give the changed model a new arm name; or move"
            f" {settings.trainer.directory} away to learn all arms again from what Kafka retains."
        ) from None


def load_checkpoint(directory: Path, rank: Rank = ONLY) -> NewestCheckpoint:
    """Return the newest whole checkpoint, None when there is none; sets newer ones that are damaged aside.

    Args:
        directory: of the checkpoints.
        rank: who goes on from it.

    Raises:
        CheckpointError: when no checkpoint is whole though there are some.
    """
    found = checkpoint.load_newest(directory, rank)
    for refused in found.refused:
        log(_logger, "checkpoint_refused", logging.WARNING, path=refused.path, reason=refused.reason)
    if found.checkpoint is None and found.refused:
        raise CheckpointError(
            f"no checkpoint in {directory} can be read (the newest: {found.refused[0].reason}). Move them"
            " away to learn everything again from what Kafka retains."
        )
    checkpoint.set_aside(found.refused)
    return found


def load_together(directory: Path, team: Team) -> NewestCheckpoint:
    """Return the newest whole checkpoint, the same on all ranks; the first one sets damaged ones aside.

    Raises:
        CheckpointError: when no checkpoint is whole though there are some.
        TrainerError: when the ranks do not see the same directory.
    """
    if team.rank.ranks == 1:
        return load_checkpoint(directory)
    _check_directory(directory, team)
    if team.rank.number == 0:
        found = load_checkpoint(directory, team.rank)
        team.share(found.path.name.encode() if found.path else b"")
        return found
    name = team.share(b"")[0].decode()
    if not name:
        return NewestCheckpoint(None, [])
    path = directory / name
    return NewestCheckpoint(checkpoint.load(path, team.rank), [], path)


def _check_directory(directory: Path, team: Team) -> None:
    path, token = directory / _TOKEN, secrets.token_hex(8)
    if team.rank.number == 0:
        try:
            path.write_text(token)
        except OSError as error:
            raise CheckpointError(f"cannot write to {directory}: {error}") from None
    expected = team.share(token.encode())[0].decode()
    if not path.is_file() or path.read_text() != expected:
        raise TrainerError(
            f"rank {team.rank.number} does not see the trainer.directory of rank 0 ({directory}): give all ranks one on"
            " a file system that they share"
        )


def _published_epoch(settings: Settings, stop: threading.Event) -> int:
    """Return the newest epoch in `model-updates`, 0 when there is none: lost checkpoints are no way back."""
    topic = Topics(settings.topics.prefix).model_updates
    newest = 0
    for from_beginning in (False, True):
        if newest:
            break
        with Resources() as resources:
            # Of updates that were removed meanwhile, newer ones have come after.
            read = partial(TopicReader, settings.kafka, [topic], on_missing="skip")
            tail = resources.add(read(from_beginning=from_beginning, back=_LOOK_BACK))
            for messages in tail.read_to_end():
                if stop.is_set():
                    break
                for message in messages:
                    if announced := read_update_headers(message.headers()):
                        newest = max(newest, announced.epoch)
    return newest
