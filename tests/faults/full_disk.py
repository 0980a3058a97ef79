"""A disk that fills up under the state of the worker, or under the checkpoints of the trainer."""

from tests.faults.accounts import Accounts
from tests.faults.episode import Episode
from tests.small_disk import SmallDisk, mounted

_MEGABYTES = 64


class FullDisk(Episode):
    """Worker and trainer in turn: each has a small disk of its own. Nothing may be lost."""

    kind = "disk full"
    needs_kafka = False
    remedies = ("cannot (write to|write checkpoints to|open) .*No space left on device.* Make room there",)

    def run(self) -> Accounts:
        """Mount the disks for as long as it takes; pytest's Skipped where that is not permitted."""
        directory = self.harness.directory
        with (
            mounted(directory / "state", megabytes=_MEGABYTES) as state,
            mounted(directory / "checkpoints", megabytes=_MEGABYTES) as checkpoints,
        ):
            self._disks: dict[str, SmallDisk] = {"worker": state, "trainer": checkpoints}
            return super().run()

    def strike(self, number: int) -> str:
        """Fill a disk until the job ends; then make room, and start it again."""
        job = ("worker", "trainer")[number % 2]
        self._disks[job].fill()
        message = self.await_stop(job, self.live_a_little)
        self._disks[job].make_room()
        self.recover(job, message)
        return f"the {job}'s, {'which says so and ends' if message else 'which goes on'}"
