"""Training on samples: recognise repeats, predict first, then learn, for every arm. Knows no Kafka."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import torch
from xxhash import xxh3_64_intdigest

from model.example import LATE_CLICK, Example
from model.learner import Learner
from model.metrics import ProgressiveMetrics
from model.peers import ALONE, Peers, WholeStep
from model.serialization.checkpoint import ArmState
from model.serialization.update import unusable
from model.spec import count_numbers
from model.statistics.item_statistics import unpack_numbers
from state.behavior import BehaviorArray, behaviors
from state.feature_layout import FeatureLayout, parse_layout
from state.records import converted, read_records
from stream.errors import TrainerError
from stream.runtime.closing import close_all
from stream.runtime.log_limit import LogLimit
from stream.runtime.logs import log
from stream.schema.dedup import RecentIds, click_ids, owner_of, sample_ids
from stream.schema.events import Sample
from stream.schema.features import NO_FEATURES
from stream.settings import ArmSettings, Settings
from stream.trainer.predictions import PREDICTION

_logger = logging.getLogger("samstream.trainer")

_MOST_UNKNOWN = 20
"""Names of arms that are told apart of those that the settings do not have: anybody may have written them."""
_UNKNOWN = "its own samples teach no arm: give workers and trainer the same arms, or let windows of the old name close"


_MISSING = (
    "not learned: `behaviors` does not give the sequence that this was scored with, since its records were removed, the"
    " topic was recreated, or the user has done more than state.slack since"
)
_NOTHING = behaviors([])


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """What is new in a sample, as the models take it.

    Attributes:
        arm: of the user.
        user: whose sample it is.
        clicked_at: as in `Sample`.
        features: sequence, items and labels. A click on what was learned as unclicked has label `LATE_CLICK`.
        ids: those that were new with it, of (request, item) pairs and of clicks.
    """

    arm: str
    user: str
    clicked_at: int
    features: Example
    ids: npt.NDArray[np.uint64]


def unpack_sample(
    sample: Sample,
    sequence: BehaviorArray,
    seen: RecentIds,
    *,
    numbers: int = 0,
    early: bool = False,
    layout: FeatureLayout = NO_FEATURES.layout,
) -> TrainingExample | None:
    """Unpack a sample, leaving out the items learned before; None when nothing is left.

    Args:
        sample: what to unpack.
        sequence: (L,) the behaviours that it names.
        seen: what was learned before.
        early: whether items come as unclicked before that is final. Then a click on one of those is new as well.
        numbers: how many numbers of each item arms read; those of a sample that has another number are left out.
        layout: how features of callers lie in records; a sample of another layout is read as one of this.

    Raises:
        ValueError: when the packed arrays do not fit one another.
    """
    items = np.frombuffer(sample.items, dtype="<u8")
    categories = np.frombuffer(sample.categories, dtype="<u4")
    labels = np.frombuffer(sample.labels, dtype="<u1")
    theirs = parse_layout(sample.layout)
    context = attributes = None
    if layout.text:
        context = converted(read_records(sample.context, theirs.context, 1), layout.context)
        attributes = converted(read_records(sample.attributes, theirs.item, len(items)), layout.item)
    positions = np.frombuffer(sample.positions, dtype="<u2")
    if not len(items) == len(categories) == len(labels) == len(positions) or (labels > 1).any():
        raise ValueError(
            f"{len(items)} items, {len(categories)} categories, {len(labels)} labels of 0 or 1, and {len(positions)}"
            " positions"
        )
    ids = sample_ids(sample.request, items)
    take = _learned if early else _unseen
    new, labels, added = take(ids, labels, seen, owner_of(sample.user))
    if not new.any():
        return None
    known = unpack_numbers(sample.numbers, len(items), numbers)
    features = Example(
        sequence,
        sample.ts,
        items[new],
        categories[new],
        labels[new],
        numbers=None if known is None else known[new],
        positions=positions[new],
        context=context,
        attributes=None if attributes is None else attributes[new],
    )
    return TrainingExample(sample.arm, sample.user, sample.clicked_at, features, added)


_Bools = npt.NDArray[np.bool_]
_Labels = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.uint64]


def _unseen(ids: _Ids, labels: npt.NDArray[np.uint8], seen: RecentIds, owner: int) -> tuple[_Bools, _Labels, _Ids]:
    """Return (C,) which items are new, (C,) their labels, and the ids that were added: one label an item."""
    new = seen.add(ids, owner)
    return new, labels.astype(np.float32), ids[new]


def _learned(ids: _Ids, labels: npt.NDArray[np.uint8], seen: RecentIds, owner: int) -> tuple[_Bools, _Labels, _Ids]:
    """Return the same where an item may come unclicked and then clicked, in whatever order and however often.

    A click is recognised by an id of its own. One whose item was learned already was learned as unclicked.
    """
    clicked = labels == 1
    new = np.ones(len(ids), np.bool_)
    of_clicks = click_ids(ids[clicked])
    new[clicked] = seen.add(of_clicks, owner)
    first = np.zeros(len(ids), np.bool_)
    first[new] = seen.add(ids[new], owner)
    added = np.concatenate([ids[first], of_clicks[new[clicked]]])
    taken = np.where(clicked & ~first, LATE_CLICK, labels).astype(np.float32)
    return new & (first | clicked), taken, added


@dataclass(frozen=True, slots=True)
class ArmStep:
    """What all ranks have for a step of an arm.

    Attributes:
        examples: how many each rank has.
        whole: all of them together.
    """

    examples: tuple[int, ...]
    whole: WholeStep

    @classmethod
    def of(cls, examples: Sequence[TrainingExample]) -> Self:
        """Return what there is where there is one rank alone."""
        labels, now = _weight([example.features for example in examples])
        return cls((len(examples),), WholeStep(labels, now))


class ArmTrainer:
    """The training of one arm: its learner, its progressive metrics, the log of its predictions if one is kept."""

    def __init__(self, arm: ArmSettings, settings: Settings, *, device: str, peers: Peers = ALONE) -> None:
        self.arm = arm
        self.learner = Learner(settings.spec(arm), arm.optim, seed=settings.seed, device=device, peers=peers)
        self._peers = peers
        self.metrics = ProgressiveMetrics()
        self.predictions = 0
        """Rows of the progressive log so far."""
        self._clicks: list[int] = []
        self._log: BinaryIO | None = None
        self._log_path = Path()

    def save(self) -> ArmState:
        """Return all that `resume` needs."""
        progress = {"metrics": self.metrics.to_dict(), "predictions": self.predictions}
        return ArmState(self.learner.state(), progress)

    def resume(self, state: ArmState) -> None:
        """Go on from a saved state.

        Raises:
            CheckpointError: when it is of another model.
        """
        if changed := self.learner.load_state(state.tensors):
            log(_logger, "features_changed", logging.WARNING, arm=self.arm.name, **changed)
        if self._peers.rank.number == 0:  # of several ranks, the first goes on with what all have counted
            self.metrics = ProgressiveMetrics.from_dict(state.progress["metrics"])
            self.predictions = state.progress["predictions"]

    def open_log(self, directory: Path) -> None:
        """Write predictions to `<directory>/<arm>.predictions`, cutting off what a lost lineage wrote.

        A log that is shorter than the lineage, such as a new one, goes on where it ends.
        """
        path = directory / f"{self.arm.name}.predictions"
        with _writing(path):
            directory.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._log = path.open("r+b")
            self.predictions = min(self.predictions, path.stat().st_size // PREDICTION.itemsize)
            self._log.truncate(self.predictions * PREDICTION.itemsize)
            self._log.seek(0, 2)
        self._log_path = path

    def train_step(self, examples: Sequence[TrainingExample], step: ArmStep | None = None) -> list[int]:
        """Predict every sample, measure the predictions, then take one step; no step when the arm is not learning.

        A step that is not finite is taken again with each example alone. Returns the indices of those that could not be
        learned even so.

        Args:
            examples: of this rank.
            step: what all ranks have for it; None where there is one.
        """
        batch = [example.features for example in examples]
        step = step or ArmStep.of(examples)
        skipped = self.learner.skipped
        predicted = self.learner.learn(batch, step.whole) if self.arm.learn else self.learner.predict(batch)
        lost = self._one_by_one(batch, step.examples) if self.learner.skipped > skipped else []
        if labels := [each.labels for each in batch if each.labels is not None]:
            self.metrics.add(np.concatenate(labels), np.concatenate(predicted))
        if self.arm.learn:
            learned = [example for index, example in enumerate(examples) if index not in lost]
            self._clicks += [example.clicked_at for example in learned if example.clicked_at]
        if self._log is not None:
            with _writing(self._log_path):
                for example, probabilities in zip(examples, predicted, strict=True):
                    rows = _rows(example, probabilities)
                    self._log.write(rows.tobytes())
                    self.predictions += len(rows)
        return lost

    def _one_by_one(self, batch: Sequence[Example], counts: Sequence[int]) -> list[int]:
        """Learn from examples one by one, those of one rank after the other; returns the own ones not even so learned.

        Args:
            batch: of this rank.
            counts: how many each rank has.
        """
        if sum(counts) == 1:
            return list(range(len(batch)))
        lost = []
        for rank, count in enumerate(counts):
            for index in range(count):
                own = [batch[index]] if rank == self._peers.rank.number else []
                # All other ranks add 0.
                labels, now = self._peers.total(torch.tensor(_weight(own))).tolist()
                skipped = self.learner.skipped
                self.learner.learn(own, WholeStep(labels, now))
                if own and self.learner.skipped > skipped:
                    lost.append(index)
        return lost

    def take_clicks(self) -> tuple[int, ...]:
        """Return the Kafka timestamps (ms) of the clicks learned since the last call."""
        clicks, self._clicks = tuple(self._clicks), []
        return clicks

    def flush_log(self) -> None:
        """Hand what was logged to the operating system."""
        if self._log is not None:
            with _writing(self._log_path):
                self._log.flush()

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            with _writing(self._log_path):
                self._log.close()


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
        late = int(_late(example).sum())
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


def merged_progress(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an arm's progress from that of all ranks: see `ArmTrainer.save`."""
    first, *others = states
    return {**first, "metrics": ProgressiveMetrics.merged([each["metrics"] for each in states])} if others else first


def _weight(examples: Sequence[Example]) -> tuple[int, int]:
    """Return the labels of some examples, and their newest `ts` (ms); 0 without any."""
    return sum(len(each.items) for each in examples), max((each.ts for each in examples), default=0)


def diverged(state: ArmState) -> str:
    """Return what is wrong with an arm's parameters; empty when all can be served."""
    return next((f"{name} holds {why}" for name, tensor in _parameters(state) if (why := unusable(tensor))), "")


def not_finite(state: ArmState) -> str:
    """Return which of an arm's parameters are not finite; empty when none is. Numbers that are too large can shrink."""
    return next(
        (f"{name} holds NaN or infinity" for name, each in _parameters(state) if not np.isfinite(each).all()), ""
    )


def _parameters(state: ArmState) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for name, tensor in state.tensors.items():
        if name.startswith(("network/", "served/")) or name.endswith("/vectors"):
            yield name, tensor


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Write a log of predictions; what the operating system raises becomes a TrainerError that names it."""
    try:
        yield
    except OSError as error:
        raise TrainerError(
            f"cannot write predictions to {path}: {error}. Make room there, or set trainer.progressive_log to another"
            " folder or to nothing, then start again: the checkpoints have all that was learned up to the newest."
        ) from None


def _rows(example: TrainingExample, probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.void]:
    """Return the rows of a log: one an item, with the label that came first. A late click has none."""
    rows = np.empty(len(probabilities), dtype=PREDICTION)
    rows["ts"] = example.features.ts
    rows["user"] = xxh3_64_intdigest(example.user.encode())
    rows["label"] = example.features.labels
    rows["probability"] = probabilities
    first: npt.NDArray[np.void] = rows[~_late(example)]
    return first


def _late(example: TrainingExample) -> npt.NDArray[np.bool_]:
    """Return (C,) which of its items are late clicks."""
    assert example.features.labels is not None
    late: npt.NDArray[np.bool_] = example.features.labels == LATE_CLICK
    return late
