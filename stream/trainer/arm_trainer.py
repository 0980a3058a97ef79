"""The training of one arm: predict first, then learn. Knows no Kafka."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import torch
from xxhash import xxh3_64_intdigest

from model.example import Example, joined
from model.learner import Learner
from model.metrics import ProgressiveMetrics
from model.peers import ALONE, Peers, WholeStep
from model.predict import Predictions
from model.serialization.checkpoint import ArmState
from model.serialization.update import unusable
from stream.errors import TrainerError
from stream.runtime.logs import log
from stream.settings import ArmSettings, Settings
from stream.trainer.examples import TrainingExample, group_by_request
from stream.trainer.predictions import PREDICTION

_logger = logging.getLogger("samstream.trainer")


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

        What has come of one request reads its sequence once. A step that is not finite is taken again with each example
        alone. Returns the indices of those that could not be learned even so.

        Args:
            examples: of this rank.
            step: what all ranks have for it; None where there is one.
        """
        batch = [example.features for example in examples]
        step = step or ArmStep.of(examples)
        skipped = self.learner.skipped
        groups = group_by_request(examples)
        together = [joined([batch[index] for index in group]) for group in groups]
        answers = self.learner.learn(together, step.whole) if self.arm.learn else self.learner.predict(together)
        predicted = _separated(answers, groups, batch)
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


def merged_progress(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an arm's progress from that of all ranks: see `ArmTrainer.save`."""
    first, *others = states
    return {**first, "metrics": ProgressiveMetrics.merged([each["metrics"] for each in states])} if others else first


def _separated(answers: Predictions, groups: Sequence[Sequence[int]], batch: Sequence[Example]) -> Predictions:
    """Return the predictions of each example, given those of groups of them that were joined."""
    predicted: dict[int, npt.NDArray[np.float32]] = {}
    for answer, group in zip(answers, groups, strict=True):
        ends = np.cumsum([len(batch[index].items) for index in group])
        predicted |= zip(group, np.split(answer, ends[:-1]), strict=True)
    return [predicted[index] for index in range(len(batch))]


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
    first: npt.NDArray[np.void] = rows[~example.late]
    return first
