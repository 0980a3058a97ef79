"""The scorers of all arms side by side: each user is answered by the one of their own arm, or by two in turn."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from model.example import Example
from model.scorer import Scorer
from model.statistics.item_statistics import pack_numbers
from model.statistics.primary import STATISTICS
from model.statistics.replica import StatisticsReplica
from stream.experiment.interleaving import interleave, seeded_coin
from stream.experiment.shares_in_force import SharesInForce
from stream.schema.events import Impression, Reason, RequestKey, Shadow, Team
from stream.settings import Settings
from stream.task.answer import Answer
from stream.worker.fallback import FallbackAnswers

_REASONS = 5
_NOT_FINITE = "its probabilities are not finite"


class ArmScorers:
    """The serving models of all arms."""

    def __init__(self, settings: Settings, *, device: str) -> None:
        self.shares = SharesInForce(settings)
        """Decides the users' arms."""
        self._micro_batch = settings.worker.micro_batch
        self._interleaved = {arm.name: arm.interleave for arm in settings.arms if arm.interleave}
        self._shadows = tuple(arm.name for arm in settings.arms if arm.shadow)
        self.by_model = {
            arm.name: Scorer(settings.spec(arm), seed=settings.seed, device=device) for arm in settings.models
        }
        """Arm → the scorer of its model; interleaved arms have none."""
        lives, length = settings.half_lives_s, settings.statistics_length
        self.statistics = StatisticsReplica(lives, length=length) if lives else None
        """What the stream knows of items, where any arm reads that."""
        self.fallback = FallbackAnswers()
        """Answers where a model has none."""

    @property
    def update_targets(self) -> dict[str, Scorer | StatisticsReplica]:
        """All that serves a trainer's updates, by the names that these have."""
        return {**self.by_model, **({STATISTICS: self.statistics} if self.statistics else {})}

    def answer(self, impressions: Sequence[Impression], examples: Sequence[Example]) -> list[Answer]:
        """Answer each impression, of which the example is what the model reads; answers keep the order.

        Examples are scored in micro-batches of one model each; those of an interleaved arm by both of its models, and
        all by each arm with `shadow = true`, unless its model fails. Where an answering model fails, or what it answers
        is not finite, there is a fallback: one bad arm stops no other.
        """
        # By the impression's own time, so that a repeat gets the same arm.
        assigned = [self.shares.assign(impression.user, impression.ts) for impression in impressions]
        if self.statistics is not None:
            examples = [self.statistics.with_numbers(example) for example in examples]
        by_model: dict[str, list[int]] = {}
        for index, (arm, _) in enumerate(assigned):
            for model in dict.fromkeys((*self._interleaved.get(arm, (arm,)), *self._shadows)):
                by_model.setdefault(model, []).append(index)
        answer_of: dict[tuple[str, int], Answer] = {}
        failed: set[tuple[str, int]] = set()
        for model, indices in by_model.items():
            scorer = self.by_model[model]
            # Neighbours of similar length share a batch, so that little of it is padding.
            indices.sort(key=lambda index: len(examples[index].sequence))
            for start in range(0, len(indices), self._micro_batch):
                chunk = indices[start : start + self._micro_batch]
                began = time.thread_time()
                scored = _scored(scorer, [examples[index] for index in chunk])
                cpu_ms = (time.thread_time() - began) * 1000 / len(chunk)
                for index, probabilities in zip(chunk, scored, strict=True):
                    if isinstance(probabilities, str):
                        candidates = len(examples[index].items)
                        failed.add((model, index))
                        answer_of[model, index] = self.fallback.answer(model, candidates, probabilities)
                        continue
                    order = np.argsort(-probabilities, kind="stable")
                    version = scorer.version
                    answer_of[model, index] = Answer(
                        model, version.epoch, version.version, probabilities, order, cpu_ms
                    )
        answers = []
        for index, ((arm, shares), impression, example) in enumerate(zip(assigned, impressions, examples, strict=True)):
            if arm in self._interleaved:
                one, other = (answer_of[model, index] for model in self._interleaved[arm])
                answer = interleaved_answer(arm, one, other, impression.request)
            else:
                answer = answer_of[arm, index]
                if impression.explain:
                    answer = replace(answer, why=self._reasons(arm, example, answer, impression.slots))
            shadows = tuple(
                _shadow(answer_of[model, index], impression.slots)
                for model in self._shadows
                if model != arm and (model, index) not in failed
            )
            answers.append(replace(answer, shadows=shadows, numbers=pack_numbers(example.numbers), shares=shares))
        return answers

    def _reasons(self, arm: str, example: Example, answer: Answer, slots: int) -> tuple[Reason, ...]:
        """Return the behaviours that weigh most in what is shown; none where the model cannot tell, or fails."""
        try:
            weights = self.by_model[arm].attention_weights(example)
        except Exception:  # then it has failed to answer as well, and that is told
            return ()
        if weights is None or not weights.size or not np.isfinite(weights).all():
            return ()
        means = weights[answer.order[:slots]].mean(axis=0)
        read = example.sequence[len(example.sequence) - len(means) :]
        most = np.argsort(-means, kind="stable")[:_REASONS]
        return tuple(Reason(int(read["ts"][place]), float(means[place])) for place in most)


def _shadow(answer: Answer, slots: int) -> Shadow:
    order = answer.order[:slots]
    return Shadow(answer.arm, answer.epoch, answer.version, order.tolist(), answer.probabilities[order].tolist())


def _scored(scorer: Scorer, examples: Sequence[Example]) -> list[npt.NDArray[np.float32] | str]:
    """Return the probabilities of each example's candidates, or why there are none."""
    try:
        scored = scorer.score(examples)
    except Exception as error:
        # One of them may be what the model fails at: the others are answered alone.
        if len(examples) > 1:
            return [each for example in examples for each in _scored(scorer, [example])]
        return [f"it failed: {error!r}"]
    return [
        probabilities if ((probabilities >= 0) & (probabilities <= 1)).all() else _NOT_FINITE
        for probabilities in scored
    ]


def interleaved_answer(arm: str, one: Answer, other: Answer, request: RequestKey) -> Answer:
    """Return the list that two answers draft in turn; the same for the same answers and request.

    The coin follows from user and request id: of the id alone, all users' requests numbered "1" would begin with the
    same arm. A candidate has the probability that the model which placed it has predicted.
    """
    mixed = interleave(one.order.tolist(), other.order.tolist(), len(one.order), seeded_coin(request.text))
    order = np.array(mixed.items, dtype=np.intp)
    ours = np.zeros(len(order), dtype=bool)
    ours[order] = [team == "a" for team in mixed.teams]
    teams = tuple(
        Team(answer.arm, answer.epoch, answer.version, np.flatnonzero(placed).tolist())
        for answer, placed in ((one, ours), (other, ~ours))
    )
    probabilities = np.where(ours, one.probabilities, other.probabilities)
    return Answer(arm, one.epoch, one.version, probabilities, order, one.cpu_ms + other.cpu_ms, teams)
