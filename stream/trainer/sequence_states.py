"""Where a trainer's sequences begin: as the newest checkpoint left them, else from a snapshot, else from the log."""

import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, TopicPartition

from state.errors import StateError
from state.partition import Partition, link_state
from stream.kafka.clients import consumer as new_consumer
from stream.kafka.identity import LogWatch, compare_state
from stream.kafka.offsets import watermarks
from stream.kafka.reader import TopicReader
from stream.runtime.closing import Resources
from stream.runtime.logs import log
from stream.schema.erasures import Erasures
from stream.schema.events import DECODE_ERRORS, decode_sample
from stream.schema.formats import JSON_ONLY, Formats
from stream.schema.position import LogIdentity
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.task.paced_fold import PacedFold
from stream.task.restore import SnapshotRestorer
from stream.trainer.sequences import NamedSequences, partition_path

_logger = logging.getLogger("samstream.trainer")

_WAIT_S = 10.0
_OLD_S = 3600.0


class SequenceStates:
    """Opens the sequences of its partitions where a trainer, or a rank of it, begins.

    Args:
        settings: the configuration.
        watch: watches `behaviors`.
        asker: asks for offsets.
        partitions: those whose samples are learned here.
        check: called while it takes time; what it raises ends it.
        erasures: users who were erased.
        on_erased: told of those of whom the checkpoint has not heard.
        formats: of the topics.
    """

    def __init__(
        self,
        settings: Settings,
        watch: LogWatch,
        asker: Consumer,
        partitions: Sequence[int],
        check: Callable[[], None] = lambda: None,
        *,
        erasures: Erasures | None = None,
        on_erased: Callable[[Collection[str]], None] = lambda _: None,
        formats: Formats = JSON_ONLY,
    ) -> None:
        self._on_erased = on_erased
        self._formats = formats
        self._erasures = Erasures() if erasures is None else erasures
        self._settings = settings
        self._topics = Topics(settings.topics.prefix)
        self._watch = watch
        self._log: LogIdentity = watch.logs[self._topics.behaviors]
        self._asker = asker
        self._partitions = partitions
        self._check = check
        self._directory = Path(settings.trainer.directory)
        self._restorer = SnapshotRestorer(settings.state, self._topics)

    def open(self, checkpoint: Path | None, samples: Mapping[int, int]) -> NamedSequences:
        """Open all, and read on from there.

        Args:
            checkpoint: the one that the trainer goes on from; None when it begins anew.
            samples: partition number → offset of `samples` to read on from; one not named begins at its oldest.

        Raises:
            StateError: when the disk does not take it.
            StreamError: when Kafka does not answer, has removed what comes next, or the snapshots are another system's.
        """
        # The last life has folded for samples that are learned again.
        for number in self._partitions:
            shutil.rmtree(partition_path(self._directory, number), ignore_errors=True)
        with Resources() as resources:
            folds = {}
            for number in self._partitions:
                self._check()
                partition, oldest = self._open(number, checkpoint, samples.get(number))
                folds[number] = resources.add(
                    PacedFold(
                        partition,
                        self._topics,
                        self._settings.worker,
                        self._log,
                        oldest,
                        self._settings.feature_schema(),
                        partitions=self._log.partitions,
                        erasures=self._erasures.of(number),
                        on_erased=self._on_erased,
                        formats=self._formats,
                    )
                )
            reader = TopicReader(
                self._settings.kafka,
                [self._topics.behaviors],
                offsets={(self._topics.behaviors, number): fold.offset for number, fold in folds.items()},
                on_missing=self._settings.topics.on_missing_records,
                watch=self._watch,
                only=self._partitions,
            )
            resources.keep()
        window_s = self._settings.worker.attribution_window_s + self._settings.worker.allowed_lateness_s
        return NamedSequences(folds, reader, self._topics.behaviors, old_s=max(_OLD_S, 2 * window_s))

    def _open(self, number: int, checkpoint: Path | None, sample: int | None) -> tuple[Partition, int]:
        """Return the state of a partition, and the oldest offset of `behaviors` that Kafka has of it."""
        oldest, _ = watermarks(self._asker, self._topics.behaviors, number)
        path = partition_path(self._directory, number)
        if checkpoint is not None and (kept := self._kept(number, partition_path(checkpoint, number), path)):
            if kept.offsets.get(self._topics.behaviors, oldest) >= oldest:
                return kept, oldest
            kept.close()
            # With what was removed it would have a hole. A snapshot from behind it has none.
            hidden = path.with_suffix(".short")
            path.rename(hidden)
            if not self._restore(number, path, oldest, sample):
                hidden.rename(path)
            shutil.rmtree(hidden, ignore_errors=True)
        elif not self._restore(number, path, oldest, sample) and oldest > 0:
            text = "samples of users with older behaviours name sequences that this trainer cannot have: they are"
            remedy = f"{text} counted and not learned; with state.snapshots it would begin with what the workers have"
            log(_logger, "sequences_begin_late", logging.WARNING, partition=number, oldest=oldest, remedy=remedy)
        return self._state(path), oldest

    def _kept(self, number: int, copy: Path, path: Path) -> Partition | None:
        """Return the state that a checkpoint has of a partition, as a copy; None when it has none that can be used."""
        if not copy.is_dir():
            return None
        try:
            link_state(copy, path)
            state = self._state(path)
        except StateError as error:
            self._refuse(number, error)
            shutil.rmtree(path, ignore_errors=True)
            return None
        difference = compare_state(self._asker, self._log, number, state.offsets, state.origins)
        if not state.offsets or difference in ("", "partitions"):
            return state
        self._refuse(number, f"{self._log.topic} was recreated, or has lost its end ({difference})")
        state.close()
        shutil.rmtree(path, ignore_errors=True)
        return None

    def _restore(self, number: int, path: Path, oldest: int, sample: int | None) -> bool:
        """Restore a snapshot that fits the next sample; says whether there is one.

        The newest that has read no more than the sample had. Where there is none, the log gives all of it if it is
        whole; else what is nearest: users with few behaviours since then have their sequences in the ring.
        """

        def among(offsets: Mapping[int, int]) -> Iterator[int]:
            usable = {snapshot: offset for snapshot, offset in offsets.items() if offset >= oldest}
            before = [snapshot for snapshot, offset in usable.items() if wanted is None or offset <= wanted]
            yield from sorted(before, reverse=True)
            if oldest > 0:
                yield from sorted(usable.keys() - set(before))

        wanted = self._read_to(number, sample)
        compare = partial(compare_state, self._asker, self._log, number)
        return self._restorer.restore(number, path, compare=compare, check=self._check, among=among) is not None

    def _read_to(self, number: int, offset: int | None) -> int | None:
        """Return how far of `behaviors` the next sample of a partition had read; None when none waits."""
        if not self._settings.state.snapshots:
            return None
        topic = self._topics.samples
        low, high = watermarks(self._asker, topic, number)
        begin = max(low, low if offset is None else offset)
        with Resources() as resources:
            own = {"group.id": "samstream-trainer", "enable.partition.eof": "true"}
            reader = resources.add(new_consumer(self._settings.kafka, own))
            reader.assign([TopicPartition(topic, number, begin)])
            while begin < high and (message := reader.poll(_WAIT_S)) is not None:
                self._check()
                if (error := message.error()) is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        break
                    continue
                try:
                    return decode_sample(message.value() or b"").sequence.read_to
                except DECODE_ERRORS:
                    begin = (message.offset() or 0) + 1
        return None

    def _state(self, path: Path) -> Partition:
        settings = self._settings
        return Partition.open(
            path,
            length=settings.state.length,
            slack=settings.state.slack,
            cache_bytes=settings.state.cache_mb << 20,
            record=settings.feature_layout.behavior,
        )

    def _refuse(self, number: int, reason: object) -> None:
        log(_logger, "sequences_refused", logging.WARNING, partition=number, reason=reason)
