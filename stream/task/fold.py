"""Behaviours folded into the sequences of one partition, appended user by user."""

from collections.abc import Collection

from state.behavior import BEHAVIOR, BehaviorArray, action_key, category_key, item_key, pack
from state.partition import Partition
from stream.schema.events import Behavior
from stream.schema.features import packed_features
from stream.task.behavior_columns import BehaviorColumns


class SequenceFold:
    """Collects behaviours and appends them to their sequences when a sequence is read, or all at once.

    Appending many behaviours of a user together rewrites a chunk once, not once a behaviour.

    Args:
        partition: whose sequences these are.
    """

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._sequences = partition.sequences
        self._record = self._sequences.record
        self._featured = self._record != BEHAVIOR
        self._waiting: dict[str, bytearray] = {}
        self.behaviors = 0
        """Behaviours folded so far."""

    def add(self, event: Behavior) -> None:
        """Fold a behaviour, whose features are packed."""
        packed = pack(item_key(event.item), category_key(event.category), action_key(event.action), event.ts)
        if self._featured:
            packed += packed_features(event.features)
        if waiting := self._waiting.get(event.user):
            waiting += packed
        else:
            self._waiting[event.user] = bytearray(packed)
        self.behaviors += 1

    def add_columns(self, columns: BehaviorColumns) -> None:
        """Fold behaviours without features."""
        waiting, size = self._waiting, BEHAVIOR.itemsize
        data = columns.packed.tobytes()
        for user, begin in zip(columns.users.tolist(), range(0, len(data), size), strict=True):
            packed = data[begin : begin + size]
            if before := waiting.get(user):
                before += packed
            else:
                waiting[user] = bytearray(packed)
        self.behaviors += len(columns)

    def erase(self, users: Collection[str]) -> int:
        """Forget what users did so far; returns how many had done anything."""
        waiting = {user for user in users if self._waiting.pop(user, None)}
        return sum(bool(self._partition.erase([user])) or user in waiting for user in users)

    def count(self, user: str) -> int:
        """Return the running count of a user's behaviours."""
        self._append(user)
        return self._sequences.count(user)

    def read(self, user: str, as_of: int | None = None) -> BehaviorArray:
        """Return a user's sequence, (L,) behaviours, oldest first.

        Args:
            user: whose.
            as_of: a running count: the sequence as it stood then.
        """
        self._append(user)
        return self._sequences.read(user, as_of)

    def find(self, user: str, seen: int, checksum: int) -> BehaviorArray | None:
        """Return the sequence with that checksum; see `Sequences.find`."""
        self._append(user)
        return self._sequences.find(user, seen, checksum)

    def flush(self) -> None:
        """Append everything that waits."""
        self._sequences.append_packed(self._waiting)
        self._waiting = {}

    def _append(self, user: str) -> None:
        if packed := self._waiting.pop(user, None):
            self._sequences.append_packed({user: packed})
