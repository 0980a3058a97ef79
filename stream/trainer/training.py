"""Training on samples, all arms together: what is new in a sample, and what each arm makes of it. Knows no Kafka."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from model.peers import ALONE, Peers
from model.spec import count_numbers
from state.behavior import BehaviorArray, behaviors
from stream.runtime.closing import close_all
from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log
from stream.schema.dedup import RecentIds, owner_of
from stream.schema.events import Sample
from stream.settings import Settings
from stream.trainer.arm_trainer import ArmStep, ArmTrainer
from stream.trainer.examples import TrainingExample, unpack_sample

_logger = logging.getLogger("samstream.trainer")

_MOST_UNKNOWN = 20
"""Names of arms that are told apart of those that the settings do not have: anybody may have written them."""
_UNKNOWN = "its own samples teach no arm: give workers and trainer the same arms, or let windows of the old name close"
_MISSING = (
    "not learned: `behaviors` does not give the sequence that this was scored with, since its records were removed, the"
    " topic was recreated, or the user has done more than state.slack since"
)
_NOTHING = behaviors([])


class Training:
    """All arms of one trainer, or of one rank of it."""

    def __init__(self, settings: Settings, *, device: str, peers: Peers = ALONE) -> None:
        wanted = settings.trainer.arms or tuple(arm.name for arm in settings.models)
        self.arms = {
            arm.name: ArmTrainer(arm, settings, device=device, peers=peers)
            for arm in settings.models
            if arm.name in wanted
        }
        self._known = {arm.name for arm in settings.models}
        self._early = settings.worker.labels == "early"
        self._numbers = count_numbers(settings.half_lives_s)
        self._layout = settings.feature_layout
        self._from_all = any(arm.arm.learn_from == "all" for arm in self.arms.values())
        self.unknown_arms: Counter[str] = Counter()
        """Arm that the settings do not have → samples of it; of the first few such arms."""
        self.seen = RecentIds(settings.trainer.dedup_window)
        self._log_limit = LogLimit()
        self.counts: Counter[str] = Counter()
        """Samples learned, repeats recognised, and the like."""

    def close(self) -> None:
        """Close the logs of predictions."""
        close_all(arm.close for arm in self.arms.values())

    def take(self, sample: Sample, sequence: BehaviorArray | None) -> TrainingExample | None:
        """Return what is new in a sample, None when it was all seen before, or cannot be learned.

        An item counts as one sample; a click on what was learned as unclicked is counted as a late click instead. One
        of an arm that the settings do not have, as after a new name, is counted apart; it is no sample learned unless
        some arm learns from all. Without its sequence it is not learned: it is counted, and no repeat when it comes
        again.

        Args:
            sample: as it was read.
            sequence: (L,) the behaviours that it names; None when they cannot be had.

        Raises:
            ValueError: when it is damaged.
        """
        known = _NOTHING if sequence is None else sequence
        example = unpack_sample(sample, known, self.seen, numbers=self._numbers, early=self._early, layout=self._layout)
        if example is None:
            self.counts["repeated"] += 1
            return None
        if sequence is None:
            self.seen.forget(example.ids)
            self._count_missing(sample, len(example.features.items))
            return None
        late = int(example.late.sum())
        new = len(example.features.items) - late
        if late:
            self.counts["late_clicks"] += late
        if self._numbers and example.features.numbers is None:
            self.counts["samples_without_statistics"] += new
        if example.arm not in self._known:
            self._count_unknown(example.arm, new)
        if example.arm in self._known or self._from_all:
            self.counts["samples"] += new
        return example

    def forget(self, users: Iterable[str]) -> None:
        """Forget by which ids samples of users are recognised: none that was scored before is learned again anyway."""
        self.seen.forget_owners({owner_of(user) for user in users})

    def leave_out(self, sample: Sample) -> None:
        """Count a sample of a user who was erased after it was scored: nothing of it is learned or remembered."""
        self.counts["samples_of_erased_users"] += len(sample.items) // 8

    def _count_missing(self, sample: Sample, items: int) -> None:
        self.counts["samples_without_sequence"] += items
        if self._log_limit.admit("sequence_missing") is not None:
            name = sample.sequence._asdict()
            samples = self.counts["samples_without_sequence"]
            log(_logger, "sequence_missing", logging.WARNING, **name, samples=samples, remedy=_MISSING)

    def _count_unknown(self, arm: str, samples: int) -> None:
        self.counts["samples_of_unknown_arms"] += samples
        if arm not in self.unknown_arms:
            if len(self.unknown_arms) >= _MOST_UNKNOWN:
                return
            known = ",".join(sorted(self._known))
            log(_logger, "samples_of_unknown_arm", logging.WARNING, arm=arm, arms=known, remedy=_UNKNOWN)
        self.unknown_arms[arm] += samples

    def weigh(self, examples: Sequence[TrainingExample]) -> list[ArmStep]:
        """Return what each arm would learn from, for ranks to agree on."""
        return [ArmStep.of([examples[index] for index in self._of_arm(arm, examples)]) for arm in self.arms.values()]

    def learn(
        self, examples: Sequence[TrainingExample], steps: Sequence[ArmStep] | None = None
    ) -> dict[int, list[str]]:
        """Let every arm predict, then learn, the examples of its own users (or all, as it is set).

        Returns index of example → arms whose step was not finite, for the examples that were lost to some arm. One that
        no arm has learned is not taken for a repeat when it comes again.

        Args:
            examples: of this rank.
            steps: for each arm, what all ranks have for it; None where there is one.
        """
        lost: dict[int, list[str]] = {}
        learned: set[int] = set()
        for (name, trainer), step in zip(self.arms.items(), steps or self.weigh(examples), strict=True):
            mine = self._of_arm(trainer, examples)
            if not any(step.examples):
                continue
            failed = {mine[place] for place in trainer.train_step([examples[index] for index in mine], step)}
            for index in failed:
                lost.setdefault(index, []).append(name)
            if trainer.arm.learn:
                learned.update(set(mine) - failed)
        for index in lost:
            self.counts["skipped"] += len(examples[index].features.items)
            if index not in learned:
                self.seen.forget(examples[index].ids)
        return lost

    def _of_arm(self, trainer: ArmTrainer, examples: Sequence[TrainingExample]) -> list[int]:
        """Return the indices of the examples that an arm learns from."""
        everyone = trainer.arm.learn_from == "all"
        return [index for index, example in enumerate(examples) if everyone or example.arm == trainer.arm.name]
