"""The joiner against an oracle: every shown item labelled once, clicks at once, the rest when the window closes."""

from collections.abc import Iterable

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stream.schema.events import Click
from stream.schema.record import Record, RefusedRecord
from stream.task.joiner import Joiner, LabelledItems, PendingImpression

WINDOW = 1000


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
        seen=7,
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
