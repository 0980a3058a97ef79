"""Where a trainer resumes: the newest whole checkpoint, the offsets in it, and an epoch above all earlier ones."""

import logging
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from confluent_kafka import Consumer

from model.errors import CheckpointError
from model.serialization import checkpoint
from model.serialization.checkpoint import ArmState, Checkpoint, NewestCheckpoint
from stream.kafka.identity import compare
from stream.kafka.reader import TopicReader
from stream.runtime.closing import Resources
from stream.runtime.logs import log
from stream.schema.position import LogIdentity, Origin, decode_origin
from stream.schema.topics import Topics
from stream.schema.update_headers import read_update_headers
from stream.settings import Settings
from stream.trainer.predictions import predictions_directory
from stream.trainer.training import ArmTrainer, Training, not_finite

_logger = logging.getLogger("samstream.trainer")

_LOOK_BACK = 200
"""Records of `model-updates` among whose last the newest epoch is looked for first."""


@dataclass(frozen=True, slots=True)
class TrainingStart:
    """Where a trainer begins.

    Attributes:
        epoch: of this life of the trainer.
        offsets: partition number → offset of `samples` to read on from; a partition not named begins at its oldest.
        timestamps: partition number → Kafka timestamp (ms) of the record before that offset, where it is known.
    """

    epoch: int
    offsets: dict[int, int]
    timestamps: dict[int, int]


def resume_training(
    training: Training, settings: Settings, samples: LogIdentity, consumer: Consumer, stop: threading.Event
) -> TrainingStart:
    """Take up the newest whole checkpoint and begin the next epoch.

    Args:
        training: the arms.
        settings: the configuration.
        samples: which log the topic `samples` is now.
        consumer: asks for offsets.
        stop: ends the search for the newest epoch.

    Raises:
        CheckpointError: when no checkpoint is whole though there are some, or the newest whole one is of other models,
            of another topic or of another cluster.
        KafkaClientError: when Kafka cannot be read.
    """
    found = _load(Path(settings.trainer.directory))
    saved = found.checkpoint
    origins: dict[int, Origin] = {}
    if saved is not None:
        origins = _origins(saved, samples, consumer, Path(settings.trainer.directory))
        if forgotten := saved.arms.keys() - training.arms.keys():
            log(
                _logger,
                "arms_forgotten",
                logging.WARNING,
                arms=",".join(sorted(forgotten)),
                path=found.path,
                remedy=f"what they learned goes with this one, after {settings.trainer.keep} more: copy it to"
                " keep it; an arm that was renamed starts afresh under its new name",
            )
        for name, arm in training.arms.items():
            if name in saved.arms:
                _resume_arm(name, arm, saved.arms[name], found, settings)
        training.seen.restore(saved.seen)
        training.counts.update(saved.counts)
    epoch = 1 + max(saved.epoch if saved else 0, _published_epoch(settings, stop))
    for arm in training.arms.values():
        arm.learner.begin_epoch(epoch)
        if settings.trainer.progressive_log:
            arm.open_log(predictions_directory(settings))
    log(
        _logger,
        "started",
        arms=",".join(training.arms),
        epoch=epoch,
        resumed=saved is not None,
        samples=training.counts["samples"],
    )
    return TrainingStart(
        epoch,
        {number: saved.offsets[number] for number in origins} if saved else {},
        {number: origin.timestamp for number, origin in origins.items()},
    )


def _origins(saved: Checkpoint, samples: LogIdentity, consumer: Consumer, directory: Path) -> dict[int, Origin]:
    """Return partition number → origin of the offsets of a checkpoint that still are offsets of `samples`."""
    kept = {}
    for number, offset in saved.offsets.items():
        # A checkpoint from before origins were kept is only compared with the topic's end.
        unknown = Origin(LogIdentity(samples.cluster, samples.topic, "", samples.partitions))
        origin = decode_origin(saved.origins.get(number)) or unknown
        difference = compare(consumer, origin, samples, number, offset)
        if difference in ("cluster", "topic"):
            raise CheckpointError(
                f"the checkpoints in {directory} have learned from topic {origin.log.topic!r} of cluster"
                f" {origin.log.cluster}, and this trainer reads {samples.topic!r} of cluster {samples.cluster}: give"
                " each topics.prefix and cluster a trainer.directory of its own, or move the checkpoints away"
            )
        if difference in ("", "partitions"):
            kept[number] = origin
            continue
        log(
            _logger,
            "topic_made_anew",
            logging.WARNING,
            topic=samples.topic,
            partition=number,
            dropped_offset=offset,
            was=origin.log.topic_id or "unknown",
            now=samples.topic_id or "unknown",
            begins="at the oldest record",
        )
    return kept


def _resume_arm(name: str, arm: ArmTrainer, state: ArmState, found: NewestCheckpoint, settings: Settings) -> None:
    """Take up an arm's state.

    Raises:
        CheckpointError: when it does not fit the settings; names arm, path, settings and remedy.
    """
    if why := not_finite(state):
        raise CheckpointError(
            f"arm {name!r} had diverged in checkpoint {found.path}: {why}. Move that checkpoint away to go on from the"
            f" one before, with smaller steps in optim of arm {name!r}."
        )
    try:
        arm.resume(state)
    except CheckpointError as error:
        raise CheckpointError(
            f"arm {name!r} cannot go on from checkpoint {found.path}: {error}. Set preset, model and optim.max_rows of"
            f" arm {name!r}, and seed, as they were; or give the changed model a new arm name; or move"
            f" {settings.trainer.directory} away to learn all arms again from what Kafka retains."
        ) from None


def _load(directory: Path) -> NewestCheckpoint:
    found = checkpoint.load_newest(directory)
    for refused in found.refused:
        log(_logger, "checkpoint_refused", logging.WARNING, path=refused.path, reason=refused.reason)
    if found.checkpoint is None and found.refused:
        raise CheckpointError(
            f"no checkpoint in {directory} can be read (the newest: {found.refused[0].reason}). Move them"
            " away to learn everything again from what Kafka retains."
        )
    checkpoint.set_aside(found.refused)
    return found


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
