"""The joiner against an oracle: every shown item labelled once, clicks at once, the rest when the window closes.

With early labels: learned from early, counted as ever, and whatever happens it comes to one label an item.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from model.example import LATE_CLICK
from state.behavior import behaviors, item_key
from stream.schema.dedup import RecentIds
from stream.schema.events import Click, RequestKey
from stream.schema.record import Record, RefusedRecord
from stream.task.joiner import Joiner, LabelledItems, PendingImpression
from stream.task.labels import merge_labels, samples_and_outcomes
from stream.trainer.examples import unpack_sample

WINDOW = 1000
WAIT = 200


class Memory:
    """A table in memory."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def put(self, key: str, value: bytes) -> None:
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.values.pop(key, None)

    def items(self) -> Iterable[tuple[str, bytes]]:
        return list(self.values.items())


def pending(
    request_id: str = "r", *, user: str = "u", ts: int = 0, candidates: int = 3, slots: int = 2
) -> PendingImpression:
    return PendingImpression(
        request_id=request_id,
        user=user,
        arm="a",
        ts=ts,
        epoch=1,
        version=2,
        slots=slots,
        items=[f"i{index}" for index in range(candidates)],
        categories=[0] * candidates,
        probabilities=[0.5] * candidates,
        ranks=list(range(candidates)),
        clicked=bytearray(candidates),
    )


def click(item: str = "i0", *, request_id: str = "r", ts: int = 10, user: str = "u") -> tuple[Click, Record]:
    return Click(request_id, user, item, ts), Record("clicks", 0, 5, 777, user.encode(), b"raw")


def test_a_click_labels_at_once_and_the_rest_when_the_window_closes() -> None:
    joiner = Joiner(Memory(), window_ms=WINDOW)
    assert not list(joiner.impression(pending()))
    [positive] = joiner.click(*click("i1"))
    assert isinstance(positive, LabelledItems)
    assert (positive.indices, positive.label, positive.clicked_at) == ([1], 1, 777)
    assert not list(joiner.advance(WINDOW))
    [negative] = joiner.advance(WINDOW + 1)
    assert isinstance(negative, LabelledItems)
    assert (negative.indices, negative.label) == ([0], 0)
    assert len(joiner) == 0


def test_only_shown_items_become_negatives_but_a_click_proves_any_candidate() -> None:
    joiner = Joiner(Memory(), window_ms=WINDOW)
    list(joiner.impression(pending(candidates=4, slots=1)))
    [proved] = joiner.click(*click("i3"))
    assert isinstance(proved, LabelledItems)
    assert proved.indices == [3]
    [negative] = joiner.advance(WINDOW + 1)
    assert isinstance(negative, LabelledItems)
    assert negative.indices == [0]


def test_a_click_before_its_impression_waits_for_it() -> None:
    joiner = Joiner(Memory(), window_ms=WINDOW)
    assert not list(joiner.click(*click("i0")))
    [positive] = joiner.impression(pending())
    assert isinstance(positive, LabelledItems)
    assert positive.indices == [0]


def test_a_repeated_click_and_a_repeated_impression_are_counted_and_change_nothing() -> None:
    joiner = Joiner(Memory(), window_ms=WINDOW)
    list(joiner.impression(pending()))
    assert len(list(joiner.click(*click()))) == 1
    assert not list(joiner.click(*click()))
    assert not list(joiner.impression(pending()))
    assert (joiner.duplicate_clicks, joiner.duplicate_impressions) == (1, 1)


def test_clicks_that_cannot_be_used_come_out_refused_with_their_record() -> None:
    joiner = Joiner(Memory(), window_ms=WINDOW)
    list(joiner.impression(pending()))
    for unusable, word in [
        (click("elsewhere"), "no candidate"),
        (click(ts=WINDOW + 1), "window"),
    ]:
        [each] = joiner.click(*unusable)
        assert isinstance(each, RefusedRecord)
        assert word in each.reason
        assert each.record.value == b"raw"
    assert not list(joiner.click(*click(request_id="never")))
    assert not list(joiner.click(*click(user="other")))
    results = list(joiner.advance(WINDOW + 11))
    refused = [result for result in results if isinstance(result, RefusedRecord)]
    assert [each.record.key for each in refused] == [b"other", b"u"]
    assert "'r' of user 'other'" in refused[0].reason
    assert "'never' of user 'u'" in refused[1].reason


def test_an_impression_with_other_candidates_than_its_open_request_is_counted_apart() -> None:
    joiner = Joiner(Memory(), window_ms=WINDOW)
    list(joiner.impression(pending(candidates=3)))
    assert not list(joiner.impression(pending(candidates=4)))
    assert (joiner.duplicate_impressions, joiner.conflicting_impressions) == (0, 1)
    [negative] = joiner.advance(WINDOW + 1)
    assert isinstance(negative, LabelledItems)
    assert negative.pending.items == ["i0", "i1", "i2"]


def test_an_impression_whose_clock_is_behind_keeps_a_whole_window() -> None:
    joiner = Joiner(Memory(), window_ms=WINDOW)
    list(joiner.advance(50_000))
    list(joiner.impression(pending(ts=0)))
    assert not list(joiner.advance(50_000 + WINDOW))
    assert len(list(joiner.advance(50_001 + WINDOW))) == 1


who = st.tuples(st.sampled_from(["ann", "bob", "1"]), st.sampled_from(["1", "2", "1:1"]))


@given(
    st.dictionaries(
        who,
        st.tuples(st.integers(0, 4000), st.lists(st.tuples(st.integers(-300, 1500), st.integers(0, 4)), max_size=5)),
        max_size=6,
    ),
    st.lists(st.tuples(who, st.integers(0, 5000)), max_size=4),
    st.sets(st.integers(0, 40)),
)
def test_every_shown_item_is_labelled_once_and_rightly_whatever_the_order_the_ids_and_the_restarts(
    requests: dict[tuple[str, str], tuple[int, list[tuple[int, int]]]],
    strays: list[tuple[tuple[str, str], int]],
    restarts: set[int],
) -> None:
    strays = [(request, ts) for request, ts in strays if request not in requests]
    events: list[tuple[int, tuple[str, str], str]] = [(ts, request, "i0") for request, ts in strays]
    for request, (start, clicks) in requests.items():
        events.append((start, request, ""))
        events += [(max(0, start + delay), request, f"i{item}") for delay, item in clicks]
    events.sort(key=lambda event: event[0])
    table = Memory()
    joiner = Joiner(table, window_ms=WINDOW)
    labels: dict[tuple[str, str, str], int] = {}
    refused: list[bytes | None] = []
    for step, (ts, (user, request_id), item) in enumerate([*events, (100_000, ("", ""), "")]):
        results = list(joiner.advance(ts))
        if item:
            results += joiner.click(*click(item, request_id=request_id, ts=ts, user=user))
        elif user:
            results += joiner.impression(pending(request_id, user=user, ts=ts, candidates=5, slots=3))
        for result in results:
            if isinstance(result, LabelledItems):
                for index in result.indices:
                    key = (result.pending.user, result.pending.request_id, result.pending.items[index])
                    assert key not in labels, "labelled twice"
                    labels[key] = result.label
            else:
                refused.append(result.record.key)
        if step in restarts:
            joiner.save()
            joiner = Joiner(table, window_ms=WINDOW)
    expected = {}
    unusable = [user.encode() for (user, _), _ in strays]
    for (user, request_id), (_, clicks) in requests.items():
        unusable += [user.encode() for delay, _ in clicks if delay > WINDOW]
        for index in range(5):
            clicked = any(item == index and delay <= WINDOW for delay, item in clicks)
            if clicked or index < 3:
                expected[user, request_id, f"i{index}"] = int(clicked)
    assert labels == expected
    assert sorted(refused, key=str) == sorted(unusable, key=str)
    joiner.save()
    assert table.values.keys() <= {"t"}, "nothing is left but the event time"


def early(table: Memory | None = None) -> Joiner:
    return Joiner(table or Memory(), window_ms=WINDOW, learn_ms=WAIT)


def labelled(results: Iterable[LabelledItems | RefusedRecord]) -> list[tuple[list[int], int, str]]:
    found = list(results)
    assert all(isinstance(each, LabelledItems) for each in found)
    return [(each.indices, each.label, each.use) for each in found if isinstance(each, LabelledItems)]


def test_early_labels_are_learned_after_the_wait_and_counted_when_they_are_final() -> None:
    joiner = early()
    assert not list(joiner.impression(pending(candidates=5, slots=4)))
    assert labelled(joiner.click(*click("i0"))) == [([0], 1, "both")]
    assert not list(joiner.advance(WAIT))
    assert labelled(joiner.advance(WAIT + 1)) == [([1, 2, 3], 0, "learn")]
    assert labelled(joiner.click(*click("i2", ts=500))) == [([2], 1, "both")]
    assert labelled(joiner.click(*click("i4", ts=500))) == [([4], 1, "both")]
    assert not list(joiner.advance(WINDOW))
    assert labelled(joiner.advance(WINDOW + 1)) == [([1, 3], 0, "count")]
    assert len(joiner) == 0


def test_early_labels_of_a_window_that_closes_first_are_learned_and_counted_together() -> None:
    joiner = early()
    list(joiner.impression(pending()))
    assert labelled(joiner.advance(WINDOW + 1)) == [([0, 1], 0, "both")]
    assert not list(joiner.advance(10 * WINDOW))


def test_that_items_were_learned_early_is_saved_and_holds_whatever_labels_are_wanted_then() -> None:
    table = Memory()
    joiner = early(table)
    list(joiner.impression(pending()))
    joiner.save()
    assert labelled(joiner.advance(WAIT + 1)) == [([0, 1], 0, "learn")]
    assert joiner.unsaved
    assert labelled(early(table).advance(WAIT + 1)) == [([0, 1], 0, "learn")], "after a crash it comes again"
    joiner.save()
    assert not list(early(table).advance(WINDOW))
    for after in (early(table), Joiner(table, window_ms=WINDOW)):
        assert labelled(after.advance(WINDOW + 1)) == [([0, 1], 0, "count")]


def test_a_request_that_was_opened_before_there_were_early_labels_gets_them() -> None:
    table = Memory()
    before = Joiner(table, window_ms=WINDOW)
    assert not list(before.impression(pending()))
    before.save()
    stored = msgspec.msgpack.decode(table.values["i1:ur"])
    assert stored.pop("learned") is False
    table.values["i1:ur"] = msgspec.msgpack.encode(stored)
    assert labelled(early(table).advance(WAIT + 1)) == [([0, 1], 0, "learn")]


steps = st.integers(0, 40)


@given(
    st.dictionaries(
        who,
        st.tuples(st.integers(0, 2000), st.lists(st.tuples(st.integers(-100, 1100), st.integers(0, 4)), max_size=6)),
        min_size=1,
        max_size=4,
    ),
    st.sets(steps),
    st.sets(steps, max_size=6),
    st.sets(st.tuples(steps, st.integers(0, 6))),
)
def test_what_is_learned_of_early_labels_comes_to_one_final_label_an_item_whatever_is_repeated(
    requests: dict[tuple[str, str], tuple[int, list[tuple[int, int]]]],
    saves: set[int],
    crashes: set[int],
    held: set[tuple[int, int]],
) -> None:
    """A crash goes back to the last save and does the rest again; `held` are the steps, by life, without `advance`."""
    events: list[tuple[int, RequestKey, str]] = []
    for (user, request_id), (start, clicks) in requests.items():
        request = RequestKey(user, request_id)
        events.append((start, request, ""))
        events += [(max(0, start + delay), request, f"i{item}") for delay, item in clicks]
    events.sort(key=lambda event: event[0])
    table, seen = Memory(), RecentIds(10_000)
    joiner, saved, life, step = early(table), 0, 0, 0
    learned: Counter[tuple[RequestKey, int, int]] = Counter()
    outcomes: dict[tuple[RequestKey, str], set[int]] = {}

    def take(results: list[LabelledItems | RefusedRecord]) -> None:
        for each in merge_labels(each for each in results if isinstance(each, LabelledItems)):
            for sample, outcome in samples_and_outcomes(each):
                example = None if sample is None else unpack_sample(sample, behaviors([]), seen, early=True)
                if sample is not None and example is not None:
                    assert example.features.labels is not None
                    for item, label in zip(example.features.items.tolist(), example.features.labels, strict=True):
                        learned[sample.request, item, int(label > 0)] += 1
                        learned[sample.request, item, 0] -= int(label == LATE_CLICK)
                for item in outcome.items if outcome is not None else ():
                    outcomes.setdefault((each.pending.request, item), set()).add(each.label)

    while step < len(events):
        ts, request, item = events[step]
        results = [] if (step, life) in held else list(joiner.advance(ts))
        if item:
            results += joiner.click(*click(item, request_id=request.request_id, ts=ts, user=request.user))
        else:
            results += joiner.impression(pending(request.request_id, user=request.user, ts=ts, candidates=5, slots=3))
        take(results)
        step += 1
        if step in saves:
            joiner.save()
            saved = step
        if step in crashes:
            crashes = crashes - {step}
            joiner, step, life = early(table), saved, life + 1
    take(list(joiner.advance(100_000)))
    expected = {}
    for (user, request_id), (_, clicks) in requests.items():
        for index in range(5):
            clicked = any(item == index and delay <= WINDOW for delay, item in clicks)
            if clicked or index < 3:
                expected[RequestKey(user, request_id), f"i{index}"] = int(clicked)
    assert outcomes == {pair: {label} for pair, label in expected.items()}
    net = {key: count for key, count in learned.items() if count}
    assert net == {(request, item_key(item), label): 1 for (request, item), label in expected.items()}


def test_what_lies_under_the_request_id_alone_is_taken_up_and_moved() -> None:
    written, old = Memory(), Memory()
    before = Joiner(written, window_ms=WINDOW)
    list(before.impression(pending("1", user="ann")))
    for user in ("bob", "cid"):
        list(before.click(*click(request_id="1", user=user)))
    list(before.impression(pending("3:ann1", user="bob")))
    before.save()
    # Earlier versions wrote the request id alone, and the clicks of all users who had it in one list.
    old.put("i1", written.values["i3:ann1"])
    old.put("i3:ann1", written.values["i3:bob3:ann1"])
    old.put("c1", msgspec.msgpack.encode([*_list(written.values["c3:bob1"]), *_list(written.values["c3:cid1"])]))
    after = Joiner(old, window_ms=WINDOW)
    assert len(after) == 2
    after.save()
    assert old.values == written.values
    [ann] = after.click(*click(request_id="1", user="ann"))
    [bob] = after.impression(pending("1", user="bob"))
    assert isinstance(ann, LabelledItems)
    assert isinstance(bob, LabelledItems)
    assert (ann.pending.user, bob.pending.user) == ("ann", "bob")
    refused = [each for each in after.advance(WINDOW + 11) if isinstance(each, RefusedRecord)]
    assert [each.record.key for each in refused] == [b"cid"]
    after.save()
    assert old.values.keys() == {"t"}


def _list(value: bytes) -> list[object]:
    decoded: list[object] = msgspec.msgpack.decode(value)
    return decoded


def test_a_request_that_was_opened_before_there_were_teams_is_taken_up() -> None:
    table = Memory()
    before = Joiner(table, window_ms=WINDOW)
    assert not list(before.impression(pending()))
    before.save()
    stored = msgspec.msgpack.decode(table.values["i1:ur"])
    assert stored.pop("teams") == []
    table.values["i1:ur"] = msgspec.msgpack.encode(stored)
    after = Joiner(table, window_ms=WINDOW)
    [positive] = after.click(*click("i1"))
    assert isinstance(positive, LabelledItems)
    assert (positive.indices, positive.pending.teams) == ([1], [])


def test_a_click_that_waits_keeps_its_headers_over_a_restart_and_one_saved_without_is_still_read() -> None:
    table = Memory()
    joiner = Joiner(table, window_ms=WINDOW)
    first, record = click()
    with_headers = record._replace(headers=(("trace", b"1"), ("trace", None)))
    assert not list(joiner.click(first, with_headers))
    joiner.save()
    [stored] = msgspec.msgpack.decode(table.values["c1:ur"])
    older = {**stored, "click": {**stored["click"], "request_id": "s"}, "origin": stored["origin"][:6]}
    table.values["c1:us"] = msgspec.msgpack.encode([older])
    refused = list(Joiner(table, window_ms=WINDOW).advance(WINDOW + 100))
    assert [found.record for found in refused if isinstance(found, RefusedRecord)] == [with_headers, record]


def test_what_was_withdrawn_gets_no_labels_and_clicks_on_it_are_counted_also_after_a_restart() -> None:
    table = Memory()
    joiner = Joiner(table, window_ms=WINDOW)
    list(joiner.impression(pending()))
    joiner.withdraw(RequestKey("u", "r"))
    joiner.withdraw(RequestKey("u", "r"))
    joiner.withdraw(RequestKey("u", "another"))
    assert not list(joiner.click(*click("i0")))
    joiner.save()
    assert (joiner.withdrawn, joiner.withdrawn_late, joiner.withdrawn_unknown, joiner.clicks_withdrawn) == (1, 0, 1, 1)
    joiner = Joiner(table, window_ms=WINDOW)
    assert not list(joiner.click(*click("i1")))
    assert not list(joiner.advance(WINDOW + 1))
    assert len(joiner) == 0


def test_a_request_that_opens_withdrawn_gives_early_clicks_no_label() -> None:
    joiner = Joiner(Memory(), window_ms=WINDOW)
    list(joiner.click(*click("i0")))
    opened = pending()
    opened.withdrawn = True
    assert not list(joiner.impression(opened))
    assert (joiner.withdrawn, joiner.clicks_withdrawn) == (1, 1)


def test_what_was_learned_early_and_then_withdrawn_is_counted_and_has_no_outcome() -> None:
    joiner = early()
    list(joiner.impression(pending()))
    [learned] = joiner.advance(WAIT + 1)
    assert isinstance(learned, LabelledItems)
    assert learned.use == "learn"
    joiner.withdraw(RequestKey("u", "r"))
    assert joiner.withdrawn_late == 1
    assert not list(joiner.advance(WINDOW + 1))


def test_what_is_withdrawn_in_time_is_not_learned_early() -> None:
    joiner = early()
    list(joiner.impression(pending()))
    joiner.withdraw(RequestKey("u", "r"))
    assert not list(joiner.advance(WAIT + 1))
    assert not list(joiner.advance(WINDOW + 1))
