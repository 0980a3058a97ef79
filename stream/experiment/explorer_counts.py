"""What the users who explore were shown and clicked: all that a bandit learns from. Knows no Kafka."""

from collections import defaultdict
from functools import reduce
from operator import add

from stream.experiment.assignment import Assignment
from stream.experiment.ledger import Ledger
from stream.experiment.shares_in_force import Explorers
from stream.experiment.statistics.moments import Moments
from stream.experiment.user_sums import UserSums
from stream.schema.events import Outcome
from stream.settings import Settings


class ExplorerCounts:
    """Counts the outcomes of those who explore; those of a partition must come in its order.

    An explorer in another arm than salt and shares say was answered by another experiment. Then what was counted of
    the partition until then is dropped: so nothing need say when this experiment began.

    Args:
        settings: arms, salt and bandit.
    """

    def __init__(self, settings: Settings) -> None:
        own = settings.stages[0].shares
        self._arms = [name for name, share in own.items() if share > 0]
        self._assignment = Assignment(own, salt=settings.salt)
        self._explorers = Explorers(salt=settings.salt, share=settings.bandit.explore)
        self._ledgers: dict[int, Ledger] = defaultdict(Ledger)
        self.foreign = 0
        """Outcomes of explorers that were another experiment's."""
        self.without_propensity = 0
        """Outcomes of explorers that name no probability of their arm: workers without a bandit answered them."""
        self.newest_has_propensity = True
        """Whether the last outcome of an explorer that was added names it."""

    def add(self, partition: int, outcome: Outcome) -> None:
        """Add an outcome; it counts if its user explores, and once its request's window has closed."""
        if outcome.user not in self._explorers:
            return
        self.newest_has_propensity = outcome.propensity > 0
        if not self.newest_has_propensity:
            self.without_propensity += 1
            return
        if self._assignment.arm(outcome.user) != outcome.arm:
            self.foreign += 1
            self._ledgers.pop(partition, None)
            return
        self._ledgers[partition].add(partition, outcome)

    def moments(self) -> dict[str, Moments]:
        """Return the moments of each arm's users, (shown, clicks) first."""
        sums = [ledger.sums for ledger in self._ledgers.values()] or [UserSums()]
        return {arm: reduce(add, (each.moments(arm) for each in sums)) for arm in self._arms}
