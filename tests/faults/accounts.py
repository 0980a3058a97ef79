"""What was sent, and what became of it: counted from the topics, the state and the checkpoints of a stopped system."""

from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

from model.serialization.checkpoint import load_newest
from state.behavior import BehaviorArray, action_key, behaviors, category_key, item_key
from state.partition import Partition
from stream.kafka.dead_letters import read_dead_letters
from stream.schema.events import RequestKey, Sample, Score, decode_behavior, decode_click, decode_sample, decode_score
from tests.e2e.harness import ITEMS, LENGTH, WINDOW_S, Harness

NOTHING = behaviors([])


@dataclass(frozen=True, slots=True)
class Account:
    """Of one kind of event: what was sent, worked off, lost and doubled."""

    sent: int
    processed: int
    lost: int
    doubled: int


@dataclass(frozen=True, slots=True)
class Accounts:
    """The result of a campaign."""

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
    non_finite: int
    examples: list[str]
    kills: dict[str, int]
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """Return it as plain values."""
        return asdict(self)

    def balanced(self) -> bool:
        """Say whether nothing was lost, doubled, wrong or different."""
        kinds = (self.behaviors, self.impressions, self.clicks, self.samples)
        wrong = (
            self.refused
            + self.labels_wrong
            + self.sequences_differing
            + self.sample_sequences_differing
            + self.non_finite
        )
        return not wrong and all(each.lost == each.doubled == 0 for each in kinds)

    def table(self) -> str:
        """Return it for a person to read."""
        rows = [f"{'':12} {'sent':>9} {'processed':>10} {'lost':>6} {'doubled':>8}"]
        for name in ("behaviors", "impressions", "clicks", "samples"):
            each: Account = getattr(self, name)
            rows.append(f"{name:12} {each.sent:9,} {each.processed:10,} {each.lost:6,} {each.doubled:8,}")
        rows += [
            f"answers repeated (allowed)     {self.repeated_answers}",
            f"clicks too late for a window   {self.late_clicks}, in dead-letters, as they should be",
            f"other dead letters             {self.refused}",
            f"labels wrong                   {self.labels_wrong}",
            f"sequences differing            {self.sequences_differing} of the state, "
            f"{self.sample_sequences_differing} of samples",
            f"parameters not finite          {self.non_finite}",
            *self.examples,
            "faults: " + ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items())),
        ]
        return "\n".join(rows)


def account(harness: Harness, sent: Counter[str], kills: dict[str, int], seconds: float) -> Accounts:
    """Count everything; call it when all processes have stopped in order.

    Args:
        harness: what was asked and clicked, and where it went.
        sent: user → behaviours that were written.
        kills: kind of fault → how often.
        seconds: how long the campaign took.
    """
    full = _folded(harness)
    late, refused = _dead_letters(harness)
    clicked = harness.clicked - late
    counts, differing = _compare_state(harness, full)
    first, repeated = _first_answers(harness)
    shown = {
        (request, score.items[index]): int((request, score.items[index]) in clicked)
        for request, score in first.items()
        for index in score.order[: score.slots]
    }
    labels, differing_samples = _compare_samples(harness, first, full)
    positives = {pair for pair, values in labels.items() if 1 in values}
    trained = harness.trained()
    return Accounts(
        behaviors=Account(
            sent.total(),
            counts.total(),
            sum((sent - counts).values()),
            sum((counts - sent).values()),
        ),
        impressions=Account(
            len(harness.asked),
            len(first.keys() & set(harness.asked)),
            len(set(harness.asked) - first.keys()),
            len({request for request, _ in labels.keys() - shown.keys()}),
        ),
        clicks=Account(
            len(clicked),
            len(positives & clicked),
            len(clicked - positives),
            len(positives - clicked),
        ),
        samples=Account(len(shown), trained, max(0, len(shown) - trained), max(0, trained - len(shown))),
        repeated_answers=repeated,
        late_clicks=len(late),
        refused=len(refused),
        labels_wrong=sum(values != {shown.get(pair)} for pair, values in labels.items()),
        sequences_differing=differing,
        sample_sequences_differing=len(differing_samples),
        non_finite=_non_finite(harness),
        examples=[*differing_samples[:10], *refused[:10]],
        kills=kills,
        seconds=seconds,
    )


def _dead_letters(harness: Harness) -> tuple[set[tuple[RequestKey, str]], list[str]]:
    """Return the clicks that reached Kafka after their window, and what else was refused: nothing else should be.

    Under faults a user may be answered late, and the click may be written late: then its window is over in the time of
    the other records, whatever the click's own `ts` says.
    """
    late: set[tuple[RequestKey, str]] = set()
    others: list[str] = []
    for letter in read_dead_letters(harness.settings.kafka, harness.topics):
        origin = letter.origin
        click = decode_click(origin.value or b"") if origin.topic == harness.topics.clicks else None
        if click and origin.timestamp > harness.answers[click.request].ts + 1000 * WINDOW_S:
            late.add((click.request, click.item))
        else:
            others.append(f"  {origin.topic}/{origin.partition}/{origin.offset}: {letter.reason}")
    return late, others


def _folded(harness: Harness) -> dict[str, BehaviorArray]:
    """Fold the whole topic `behaviors` in plain Python: user → all behaviours in order."""
    rows: dict[str, list[tuple[int, int, int, int]]] = {}
    for value in harness.read(harness.topics.behaviors):
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


def _first_answers(harness: Harness) -> tuple[dict[RequestKey, Score], int]:
    """Return request → its first answer, and how many answers came again."""
    first: dict[RequestKey, Score] = {}
    answers = [decode_score(value) for value in harness.read(harness.topics.scores)]
    for score in answers:
        first.setdefault(score.request, score)
    return first, len(answers) - len(first)


def _compare_samples(
    harness: Harness, first: dict[RequestKey, Score], full: dict[str, BehaviorArray]
) -> tuple[dict[tuple[RequestKey, str], set[int]], list[str]]:
    """Return (request, item) → its labels, and the samples that do not show what was there at scoring."""
    keys = {item_key(item): item for item in ITEMS}
    labels: dict[tuple[RequestKey, str], set[int]] = {}
    differing: list[str] = []
    for value in harness.read(harness.topics.samples):
        sample: Sample = decode_sample(value)
        items = np.frombuffer(sample.items, "<u8").tolist()
        for key, label in zip(items, np.frombuffer(sample.labels, "u1").tolist(), strict=True):
            labels.setdefault((sample.request, keys[key]), set()).add(label)
        seen, rows = first[sample.request].seen, full.get(sample.user, NOTHING)
        if sample.sequence != rows[max(0, seen - LENGTH) : seen].tobytes():
            shown = [n for n in range(len(rows) + 1) if rows[max(0, n - LENGTH) : n].tobytes() == sample.sequence]
            differing.append(
                f"  {sample.request_id} of {sample.user}: scored with {seen} behaviours, the sample shows {shown}"
            )
    return labels, differing


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
