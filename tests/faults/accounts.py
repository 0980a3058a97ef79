"""What was sent, and what became of it: counted from the topics, the state and the checkpoints of a stopped system."""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass, field
from types import MappingProxyType

import numpy as np

from model.serialization.checkpoint import load_newest
from state.behavior import BehaviorArray, action_key, behaviors, category_key, checksum, item_key
from state.partition import Partition, link_state
from stream.kafka.dead_letters import read_dead_letters
from stream.schema.erasures import decode_marker
from stream.schema.events import RequestKey, Sample, Score, decode_behavior, decode_click, decode_sample, decode_score
from stream.trainer.sequences import SEQUENCES
from tests.e2e.harness import ITEMS, LENGTH, Harness
from tests.faults.history import History, Key, Pair

WINDOW_S = 60.0
"""Of systems under faults: shorter than the tests' own, so that windows close while faults happen."""
NOTHING = behaviors([])
_ITEM_OF = {item_key(item): item for item in ITEMS}


@dataclass(frozen=True, slots=True)
class Account:
    """Of one kind of event: what was sent, worked off, lost and doubled.

    `removed` is what Kafka itself removed before it was read, or what was left in topics that had to be given up:
    `sent` is `processed + removed + lost − doubled`.
    """

    sent: int
    processed: int
    lost: int
    doubled: int
    removed: int = 0


@dataclass(frozen=True, slots=True)
class Accounts:
    """The result of a campaign.

    Attributes:
        answers_foreign: answers that were given without the user's whole history, in topics with more partitions.
        told_missing: records of which the processes said that Kafka no longer has them.
        told_stops: job → how often it ended with status 1 and a message that says what to do.
        erased: how often a user was erased; the user's behaviours of before count as never sent.
        without_sequence: samples of which the trainer said that it cannot have their sequences, since Kafka has removed
            behaviours; they count as removed. Where it has not, they count as lost.
    """

    behaviors: Account
    impressions: Account
    clicks: Account
    samples: Account
    repeated_answers: int
    late_clicks: int
    refused: int
    labels_wrong: int
    sequences_differing: int
    sample_sequences_differing: int
    trainer_sequences_differing: int
    non_finite: int
    examples: list[str]
    kills: dict[str, int]
    seconds: float
    answers_foreign: int = 0
    told_missing: int = 0
    without_sequence: int = 0
    told_stops: dict[str, int] = field(default_factory=dict)
    erased: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return it as plain values."""
        return asdict(self)

    def balanced(self) -> bool:
        """Say whether nothing was lost, doubled, wrong or different."""
        kinds = (self.behaviors, self.impressions, self.clicks, self.samples)
        return not self.wrong and all(each.lost == each.doubled == 0 for each in kinds)

    @property
    def wrong(self) -> int:
        """How much is wrong that is neither lost nor doubled."""
        return (
            self.refused
            + self.labels_wrong
            + self.sequences_differing
            + self.sample_sequences_differing
            + self.trainer_sequences_differing
            + self.non_finite
            + self.answers_foreign
        )

    def table(self) -> str:
        """Return it for a person to read."""
        rows = [f"{'':12} {'sent':>9} {'processed':>10} {'removed':>8} {'lost':>6} {'doubled':>8}"]
        for name in ("behaviors", "impressions", "clicks", "samples"):
            each: Account = getattr(self, name)
            rows.append(
                f"{name:12} {each.sent:9,} {each.processed:10,} {each.removed:8,} {each.lost:6,} {each.doubled:8,}"
            )
        rows += [
            f"answers repeated (allowed)     {self.repeated_answers}",
            f"clicks too late for a window   {self.late_clicks}, in dead-letters, as they should be",
            f"other dead letters             {self.refused}",
            f"labels wrong                   {self.labels_wrong}",
            f"sequences differing            {self.sequences_differing} of the state, "
            f"{self.sample_sequences_differing} of samples, {self.trainer_sequences_differing} of the trainer",
            f"samples without sequence       {self.without_sequence}, where behaviours were removed",
            f"parameters not finite          {self.non_finite}",
        ]
        if self.erased:
            rows.append(f"users erased                   {self.erased}, who began anew")
        if self.told_stops or self.told_missing:
            stops = ", ".join(f"{count} of the {job}" for job, count in sorted(self.told_stops.items())) or "none"
            rows.append(f"stops with what to do          {stops}; told to be missing: {self.told_missing} records")
        return "\n".join(
            [
                *rows,
                *self.examples,
                "faults: " + ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items())),
            ]
        )


def account(
    harness: Harness,
    sent: Counter[str],
    kills: dict[str, int],
    seconds: float,
    history: History | None = None,
    told_stops: Mapping[str, int] = MappingProxyType({}),
    erased: int = 0,
) -> Accounts:
    """Count everything; call it when all processes have stopped in order.

    Args:
        harness: what was asked and clicked, and where it went.
        sent: user → behaviours that were written.
        kills: kind of fault → how often.
        seconds: how long the campaign took.
        history: what the topics ever had, where Kafka has removed some of it.
        told_stops: job → how often it ended with what to do.
        erased: how often a user was erased.
    """
    history = history or History(harness)
    removed = history.removed()
    full = _folded(history.behaviors())
    first, repeated = _first_answers(history)
    # Of an impression that Kafka removed, an answer is all that may be left: who took over never learned of it.
    orphans = removed.requests & first.keys()
    late, refused = _dead_letters(harness, first, orphans)
    clicked = harness.clicked - late
    counts, differing = _compare_state(harness, full)
    kept = sent - removed.behaviors
    shown = {
        (request, score.items[index]): int((request, score.items[index]) in clicked)
        for request, score in first.items()
        for index in score.order[: score.slots]
    }
    labels, differing_samples = labels_of(history), _differing_samples(history, first, full)
    positives = {pair for pair, values in labels.items() if 1 in values}
    unanswered = set(harness.asked) - first.keys()
    unclicked = clicked - positives
    clicks_removed = {pair for pair in unclicked if pair in removed.clicks or pair[0] in orphans}
    pairs = _pairs_of_samples(history)
    expected = {pair for pair, keys in pairs.items() if not keys <= removed.samples}
    unsampled = shown.keys() - labels.keys()
    samples_removed = {pair for pair in unsampled if pair[0] in orphans} | (pairs.keys() - expected)
    trained = harness.trained()
    without_sequence = _without_sequence(harness) if history.unsettled else 0
    return Accounts(
        behaviors=Account(
            sent.total(),
            counts.total(),
            sum((kept - counts).values()),
            sum((counts - kept).values()),
            removed.behaviors.total(),
        ),
        impressions=Account(
            len(harness.asked),
            len(first.keys() & set(harness.asked)),
            len(unanswered - removed.requests),
            len({request for request, _ in labels.keys() - shown.keys()}),
            len(unanswered & removed.requests),
        ),
        clicks=Account(
            len(clicked),
            len(positives & clicked),
            len(unclicked - clicks_removed),
            len(positives - clicked),
            len(clicks_removed),
        ),
        samples=Account(
            len(shown),
            trained,
            max(0, len(shown) - len(samples_removed) - without_sequence - trained),
            max(0, trained - len(shown) + len(samples_removed)),
            len(samples_removed) + without_sequence,
        ),
        repeated_answers=repeated,
        late_clicks=len(late),
        refused=len(refused),
        labels_wrong=sum(
            not right_labels(harness, values, shown.get(pair))
            for pair, values in labels.items()
            if pair not in removed.clicks and pair[0] not in orphans
        ),
        sequences_differing=differing,
        sample_sequences_differing=len(differing_samples),
        trainer_sequences_differing=0 if history.unsettled else _differing_of_trainer(harness, full),
        non_finite=_non_finite(harness),
        examples=[*differing_samples[:10], *refused[:10]],
        kills=kills,
        seconds=seconds,
        told_missing=len(history.told()),
        without_sequence=without_sequence,
        told_stops=dict(told_stops),
        erased=erased,
    )


def _dead_letters(
    harness: Harness, answers: Mapping[RequestKey, Score], orphans: Set[RequestKey]
) -> tuple[set[Pair], list[str]]:
    """Return the clicks that reached Kafka after their window, and what else was refused: nothing else should be.

    Under faults a user may be answered late, and the click may be written late: then its window is over in the time of
    the other records, whatever the click's own `ts` says. A click on an answer whose impression Kafka removed has none.
    """
    late: set[Pair] = set()
    window_ms = 1000 * harness.settings.worker.attribution_window_s
    others: list[str] = []
    for letter in read_dead_letters(harness.settings.kafka, harness.topics):
        origin = letter.origin
        click = decode_click(origin.value or b"") if origin.topic == harness.topics.clicks else None
        if click and click.request in orphans:
            continue
        answer = answers.get(click.request) if click else None
        if click and answer and origin.timestamp > answer.ts + window_ms:
            late.add((click.request, click.item))
        else:
            others.append(f"  {origin.topic}/{origin.partition}/{origin.offset}: {letter.reason}")
    return late, others


def _folded(values: Iterable[bytes]) -> dict[str, BehaviorArray]:
    """Fold behaviours in plain Python: user → all of them since the user was erased, in order."""
    rows: dict[str, list[tuple[int, int, int, int]]] = {}
    for value in values:
        if (marker := decode_marker(value)) is not None:
            rows.pop(marker.user, None)
            continue
        event = decode_behavior(value)
        rows.setdefault(event.user, []).append(
            (item_key(event.item), category_key(event.category), action_key(event.action), event.ts)
        )
    return {user: behaviors(all_rows) for user, all_rows in rows.items()}


def _compare_state(harness: Harness, full: dict[str, BehaviorArray]) -> tuple[Counter[str], int]:
    """Return user → behaviours counted in the state, and how many users' sequences differ from the oracle's."""
    counts: Counter[str] = Counter()
    same = 0
    for path in sorted((harness.directory / "state").glob("partition-?????")):
        partition = Partition.open(path, length=LENGTH, slack=harness.settings.state.slack)
        for user, expected in full.items():
            if count := partition.sequences.count(user):
                counts[user] += count
                same += partition.sequences.read(user).tobytes() == expected[-LENGTH:].tobytes()
        partition.close()
    return counts, len(full) - same


def _first_answers(history: History) -> tuple[dict[RequestKey, Score], int]:
    """Return request → its first answer, and how many answers came again."""
    first: dict[RequestKey, Score] = {}
    answers = [decode_score(value) for value in history.values(history.topics.scores)]
    for score in answers:
        first.setdefault(score.request, score)
    return first, len(answers) - len(first)


def right_labels(harness: Harness, labels: Set[int], label: int | None) -> bool:
    """Say whether an item came out with its label alone or, where labels come early, as unclicked before its click."""
    early = harness.settings.worker.labels == "early"
    return labels == {label} or (early and label == 1 and labels == {0, 1})


def labels_of(history: History) -> dict[Pair, set[int]]:
    """Return what came out as samples → its labels."""
    labels: dict[Pair, set[int]] = {}
    for value in history.values(history.topics.samples):
        sample: Sample = decode_sample(value)
        for item, label in zip(_items(sample), np.frombuffer(sample.labels, "u1").tolist(), strict=True):
            labels.setdefault((sample.request, item), set()).add(label)
    return labels


def _differing_samples(
    history: History, first: Mapping[RequestKey, Score], full: Mapping[str, BehaviorArray]
) -> list[str]:
    """Return the samples that do not show what was there at scoring."""
    differing: list[str] = []
    for value in history.values(history.topics.samples):
        sample: Sample = decode_sample(value)
        if sample.request in history.unsettled:
            continue
        score, rows = first[sample.request], full.get(sample.user, NOTHING)
        seen, named = score.seen, sample.sequence
        if named != (seen, score.read_to, checksum(rows[max(0, seen - LENGTH) : seen])):
            shown = [n for n in range(len(rows) + 1) if checksum(rows[max(0, n - LENGTH) : n]) == named.checksum]
            differing.append(
                f"  {sample.request_id} of {sample.user}: scored with {seen} behaviours, the sample names {named},"
                f" which are those at {shown}"
            )
    return differing


def _differing_of_trainer(harness: Harness, full: Mapping[str, BehaviorArray]) -> int:
    """Return how many sequences in the newest checkpoint are not those of their running count."""
    found, differing = load_newest(harness.directory / "checkpoints"), 0
    assert found.path is not None, "no checkpoint was written"
    for kept in sorted((found.path / SEQUENCES).iterdir()):
        copy = harness.directory / f"looked-at-{kept.name}"
        link_state(kept, copy)
        partition = Partition.open(copy, length=LENGTH, slack=harness.settings.state.slack)
        for user, rows in full.items():
            if count := partition.sequences.count(user):
                expected = rows[max(0, count - LENGTH) : count]
                differing += count > len(rows) or partition.sequences.read(user).tobytes() != expected.tobytes()
        partition.close()
        shutil.rmtree(copy)
    return differing


def _without_sequence(harness: Harness) -> int:
    found = load_newest(harness.directory / "checkpoints").checkpoint
    return found.counts.get("samples_without_sequence", 0) if found else 0


def _pairs_of_samples(history: History) -> dict[Pair, set[Key]]:
    """Return what was shown and came out as samples → the records in which it did."""
    pairs: dict[Pair, set[Key]] = {}
    for key, record in history.records(history.topics.samples).items():
        sample: Sample = decode_sample(record.value or b"")
        for item in _items(sample):
            pairs.setdefault((sample.request, item), set()).add(key)
    return pairs


def _items(sample: Sample) -> list[str]:
    return [_ITEM_OF[key] for key in np.frombuffer(sample.items, "<u8").tolist()]


def _non_finite(harness: Harness) -> int:
    """Return how many values of the newest checkpoint are not finite."""
    found = load_newest(harness.directory / "checkpoints").checkpoint
    assert found is not None, "no checkpoint was written"
    return sum(
        int((~np.isfinite(tensor)).sum())
        for arm in found.arms.values()
        for tensor in arm.tensors.values()
        if tensor.dtype.kind == "f"
    )
