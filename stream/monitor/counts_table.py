"""The monitor's table: what was counted of each partition of `outcomes`; its changelog is in Kafka."""

from collections.abc import Container, Iterable

from msgspec.structs import replace

from stream.monitor import records
from stream.monitor.application import AcknowledgedTable, MonitorApp, at_partition
from stream.monitor.counting import PartitionProgress, WindowCounts, WindowPlan, fold
from stream.monitor.records import MomentsPartial, Partial, ProgressPartial, WindowPartial
from stream.monitor.users import WHOLE, PartitionMoments, UserCounter, UserRow
from stream.schema.erasures import Erasures, Voids
from stream.schema.events import Outcome
from stream.settings import Stage

# Keys and tags keep the words of older versions: they are on disk and in Kafka.
_PROGRESS, _MOMENTS = b"head", b"sums"
_ROCKS = {"block_cache_size": 8 << 20, "write_buffer_size": 4 << 20, "max_open_files": 64, "driver": "rocksdict"}


class CountsTable:
    """Progress, moments, windows and users of the partitions that this monitor has.

    Args:
        app: the application.
        plan: which windows there are.
        experiment: of which users are counted.
        partitions: how many the topic `outcomes` has.
        erasures: users who were erased: their rows go, and what was answered before that counts as nobody's.
        stage: of a ramp: users are counted for impressions within it.
        users: those who count towards the verdict; None for all.
    """

    def __init__(
        self,
        app: MonitorApp,
        plan: WindowPlan,
        experiment: int,
        partitions: int,
        erasures: Erasures,
        stage: Stage = WHOLE,
        users: Container[str] | None = None,
    ) -> None:
        self._users = users
        self._stage = stage
        self._erasures = erasures
        self._voids: dict[int, Voids] = {}
        self._plan = plan
        self._experiment = experiment
        self._table = AcknowledgedTable(
            app,
            name=f"counts-{plan.window_ms}",
            partitions=partitions,
            key_type=bytes,
            value_type=bytes,
            options=dict(_ROCKS),
        )
        self.changelog: str = self._table.changelog_topic_name
        """The topic of the table's changes."""
        app.tables.add(self._table)

    async def acknowledged(self) -> None:
        """Wait until Kafka has every change."""
        await self._table.acknowledged()

    def erase(self, partition: int) -> bool:
        """Remove the rows of users of a partition who were erased since the last call; says whether there were any."""
        voids = self._voids_of(partition)
        if not voids.waiting:
            return False
        with at_partition(partition):
            for user in {each.user for each in voids.take()}:
                row = self._load_user(user)
                # Of one that began after the erasure, nothing is void.
                if row is not None and voids.answer(user, row.since):
                    self._table.pop(_user_key(user), None)
        return True

    def erased_to(self, partition: int) -> int:
        """Return the offset of `erasures` below which the rows of a partition are removed."""
        return self._voids_of(partition).position

    def purge(self, partition: int) -> None:
        """Take the bytes of removed rows out of a partition's files; may be called in another thread."""
        self._table.purge(partition)

    def forget_erasures(self) -> None:
        """Look through all erasures again: tables of other partitions will be here."""
        self._voids.clear()

    def _voids_of(self, partition: int) -> Voids:
        return self._voids.setdefault(partition, Voids(self._erasures.of(partition)))

    def progress(self, partition: int) -> PartitionProgress | None:
        """Return how far a partition is counted; None where nothing is."""
        with at_partition(partition):
            value = self._table.get(_PROGRESS)
        return records.decode_progress(value) if value else None

    def moments(self, partition: int) -> PartitionMoments | None:
        """Return the moments of a partition's users; None where there are none."""
        with at_partition(partition):
            value = self._table.get(_MOMENTS)
        return records.decode_moments(value) if value else None

    def counted_to(self, partition: int) -> int:
        """Return the offset of the last outcome that the moments hold; -1 where there is none."""
        progress, moments = self.progress(partition), self.moments(partition)
        begun = progress.begun if progress else 0
        return moments.offset if moments is not None and moments.begun == begun else -1

    def start_over(self, partition: int, begun: int, position: tuple[str, int]) -> PartitionProgress:
        """Reset the counts of a partition; returns its progress.

        Args:
            partition: its number.
            begun: when, seconds since the epoch.
            position: origin and anchor, as in `PartitionProgress`.
        """
        before = self.progress(partition)
        origin, anchor = position
        fresh = PartitionProgress(windows=[], begun=begun, origin=origin, anchor=anchor)
        with at_partition(partition):
            for window in before.windows if before else ():
                self._table.pop(_key(window), None)
            self._table[_PROGRESS] = records.encode_packed(fresh)
        return fresh

    def count(
        self, partition: int, outcomes: Iterable[tuple[int, Outcome | None]], position: tuple[str, int]
    ) -> list[Partial]:
        """Count outcomes of a partition; returns what has changed, for all monitors.

        Args:
            partition: its number.
            outcomes: offset and outcome, None for one that cannot be read.
            position: origin and anchor, as in `PartitionProgress`.
        """
        progress, moments = self.progress(partition) or PartitionProgress(windows=[]), self.moments(partition)
        with at_partition(partition):
            void = self._voids_of(partition).answer
            users = UserCounter(
                self._experiment,
                moments,
                self._load_user,
                begun=progress.begun,
                void=void,
                stage=self._stage,
                users=self._users,
            )
            changes = fold(self._plan, progress, self._load, users, outcomes)
            progress.origin, progress.anchor = position
            partials: list[Partial] = [MomentsPartial(partition, changes.sums)]
            self._table[_MOMENTS] = records.encode_packed(changes.sums)
            for user, row in changes.users.items():
                self._table[_user_key(user)] = records.encode_packed(row)
            for window in changes.written:
                self._table[_key(window.start)] = records.encode_packed(window)
                partials.append(WindowPartial(self._plan.window_ms, partition, replace(window, ids=b"")))
            for start in changes.removed:
                self._table.pop(_key(start), None)
            self._table[_PROGRESS] = records.encode_packed(changes.progress)
        return [*partials, ProgressPartial(partition, replace(changes.progress, windows=[]))]

    def _load(self, start: int) -> WindowCounts | None:
        value = self._table.get(_key(start))
        return records.decode_window(value) if value else None

    def _load_user(self, user: str) -> UserRow | None:
        value = self._table.get(_user_key(user))
        return records.decode_user(value) if value else None


def _key(start: int) -> bytes:
    return b"window/%d" % start


def _user_key(user: str) -> bytes:
    return b"user/" + user.encode()
