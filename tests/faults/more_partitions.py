"""A partition count that is raised under running processes: users then lie elsewhere than their histories."""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import replace

from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]

from stream.schema.events import RequestKey, Score, decode_behavior, decode_impression, decode_score
from stream.schema.partitioner import partition_of
from tests.faults.accounts import Account, Accounts, labels_of, right_labels
from tests.faults.episode import PARTITIONS, Episode, Setting

_NOTICED_S = 20.0
_MOST = 8


class MorePartitions(Episode):
    """Each time the processes say that new topics are to be made; the users then go on there.

    All behaviours are written again to the new topics, as the message says, and what was not answered is asked again.
    What was shown and clicked in windows that were open stays behind.

    Args:
        setting: where it takes place.
    """

    kind = "partitions raised"
    remedies = (
        "the number of partitions of .* was changed while this worker ran.*: make topics of another topics.prefix",
        "has another number of partitions now, while it was read. Start again",
        "partitions; now it has .* Make topics of another topics.prefix",
        "wrong partition counts; .* choose another topics.prefix",
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        nothing = Account(0, 0, 0, 0)
        self._before = {"impressions": nothing, "clicks": nothing, "samples": nothing}
        self._foreign = 0
        self._labels_wrong = 0

    def strike(self, number: int) -> str:
        """Raise the number of partitions; returns how."""
        harness, topics = self.harness, self.harness.topics
        before = self.partitions
        after = before + self.random.randint(1, before)
        keyed = [topic.name for topic in topics if topic.key == "user"]
        chosen = (keyed, [topics.clicks], [topics.samples], [topics.impressions])[number % 4]
        self.live()
        harness.client.flush()
        for raised in self.admin.create_partitions([NewPartitions(name, after) for name in chosen]).values():
            raised.result()
        self.new_client()
        reader = "trainer" if chosen == [topics.samples] else "worker"
        assert self.await_stop(reader, self.live_a_little, at_most_s=_NOTICED_S), f"{reader}: {chosen} go unnoticed"
        self.stopped("worker" if reader == "trainer" else "trainer")
        if reader == "worker" and self.random.random() < 0.5:
            self.lose_state()
        self.start(reader)
        assert self.await_stop(reader, self.live_a_little), f"{reader}: {chosen} are accepted"
        self._close_books()
        self.partitions = after if after <= _MOST else PARTITIONS
        self._move_on(number)
        name = chosen[0].removeprefix(harness.settings.topics.prefix)
        return f"{before} → {after} of {'all topics' if len(chosen) > 1 else name}"

    def account(self, seconds: float) -> Accounts:
        """Count everything, also what stands in the books of the topics that were given up."""
        found = super().account(seconds)
        return replace(
            found,
            impressions=_sum(found.impressions, self._before["impressions"]),
            clicks=_sum(found.clicks, self._before["clicks"]),
            samples=_sum(found.samples, self._before["samples"]),
            answers_foreign=self._foreign,
            labels_wrong=found.labels_wrong + self._labels_wrong,
        )

    def _close_books(self) -> None:
        """Stop the system, and count what was answered and learned in it; see that every answer knew its user."""
        harness, topics = self.harness, self.harness.topics
        harness.client.flush()
        harness.processes.stop()
        offsets: dict[tuple[str, int], list[int]] = defaultdict(list)
        for (_, _, partition, offset), record in self.history.records(topics.behaviors).items():
            offsets[decode_behavior(record.value or b"").user, partition].append(offset)
        answers: dict[RequestKey, Score] = {}
        for (_, _, partition, _), record in self.history.records(topics.scores).items():
            score = decode_score(record.value or b"")
            home = partition_of(score.user.encode(), self.partitions)
            known = bisect_left(offsets[score.user, home], score.read_to)
            self._foreign += (partition, score.seen) != (home, known)
            answers.setdefault(score.request, score)
        shown = {(request, score.items[i]) for request, score in answers.items() for i in score.order[: score.slots]}
        labels = labels_of(self.history)
        positives = {pair for pair, values in labels.items() if 1 in values}
        self._labels_wrong += sum(
            not right_labels(harness, values, int(pair in harness.clicked)) for pair, values in labels.items()
        )
        learned, clicked = harness.trained(), harness.clicked
        self._add("impressions", Account(len(answers), len(answers), 0, 0))
        self._add(
            "clicks", Account(len(clicked), len(positives), 0, len(positives - clicked), len(clicked - positives))
        )
        doubled = max(0, learned - len(labels.keys() & shown))
        self._add("samples", Account(len(shown), learned, 0, doubled, len(shown) - learned + doubled))
        for request, _ in clicked:
            self.sent[request.user] += 1
        harness.answers |= answers

    def _move_on(self, number: int) -> None:
        """Go on in other topics: with all behaviours, and with what was not answered."""
        old, kept = self.harness, self.history
        self.harness, self.history = self.system(self.setting.directory / f"after-{number + 1}")
        client = self.harness.client
        behaviors = kept.records(old.topics.behaviors).values()
        for record in sorted(behaviors, key=lambda record: record.timestamp):  # a user's may lie in two partitions
            event = decode_behavior(record.value or b"")
            client.behavior(event.user, event.item, event.ts, event.category, event.action)
        for record in kept.records(old.topics.impressions).values():
            asked = decode_impression(record.value or b"")
            if asked.request not in old.answers:
                name = f"{asked.request_id} again"
                self.harness.asked.append(client.impression(asked.user, asked.candidates, asked.slots, request_id=name))
        old.client.close(flush=False)
        self.admin.delete_topics([topic.name for topic in old.topics])
        self.begin()

    def _add(self, name: str, account: Account) -> None:
        self._before[name] = _sum(self._before[name], account)


def _sum(one: Account, other: Account) -> Account:
    return Account(
        one.sent + other.sent,
        one.processed + other.processed,
        one.lost + other.lost,
        one.doubled + other.doubled,
        one.removed + other.removed,
    )
