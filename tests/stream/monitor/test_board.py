"""The board: the sum of the newest fragments; windows close, are published once, and again when they change."""

from msgspec.structs import replace

from stream.announcement import Announcement
from stream.events import Outcome
from stream.monitor.board import Board
from stream.monitor.counting import Head, Plan, Window, fold
from stream.monitor.latency import class_of
from stream.monitor.records import (
    Answers,
    AnswersFragment,
    HeadFragment,
    WindowFragment,
    decode_arm_window,
    decode_fragment,
    encode_json,
    encode_packed,
)
from stream.monitor.users import Users
from stream.monitor.view import picture
from stream.settings import convert

PLAN = Plan(window_ms=1000, close_ms=2000, remember_ms=10_000, keep_ms=20_000)


def part(partition: int, start: int, offset: int, *labels: int, user: str = "u", arm: str = "a") -> WindowFragment:
    places = list(range(len(labels)))
    items = [f"item-{place}" for place in places]
    outcome = Outcome(
        f"r{partition}-{offset}", user, arm, start, 1, offset, items, places, [0.25] * len(labels), [*labels]
    )
    users = Users(0, None, lambda _: None)
    [window] = fold(PLAN, Head(windows=[]), lambda _: None, users, [(offset, outcome)]).written
    return WindowFragment(PLAN.window_ms, partition, replace(window, ids=b""))


def test_the_whole_is_the_sum_of_the_newest_fragments_of_all_partitions() -> None:
    board = Board(PLAN)
    board.take(part(0, 0, 5, 1, 0))
    board.take(part(1, 0, 2, 0))
    board.take(part(0, 0, 4, 1, 1, 1, 1))
    board.take(replace(part(2, 0, 9, 1), window_ms=77))
    counts = board.totals(0)["a"]
    assert (counts.requests, sum(counts.shown), sum(counts.clicks)) == (2, 3, 1)


def test_a_closed_window_is_published_once_and_again_when_it_changes() -> None:
    board = Board(PLAN)
    board.take(part(0, 0, 1, 1, 0))
    board.take(part(0, 2999, 2, 0))
    assert list(board.due()) == []
    board.take(part(0, 3000, 3, 0))
    [record] = board.due()
    assert (record.arm, record.start, record.end, record.revision) == ("a", 0, 1000, 1)
    assert (record.impressions, record.shown, record.clicks, record.ctr) == (1, 2, 1, 0.5)
    assert record.calibration == 0.5
    assert list(board.due()) == []
    board.take(part(1, 0, 1, 1))
    [again] = board.due()
    assert (again.revision, again.shown, board.revised) == (2, 3, 1)
    assert decode_arm_window(encode_json(again)) == again


def test_another_monitor_publishes_only_what_is_not_there() -> None:
    first, second = Board(PLAN), Board(PLAN)
    for fragment in (part(0, 0, 1, 1, 0), part(1, 0, 1, 1, 0, arm="b"), part(0, 3000, 3, 0)):
        first.take(fragment)
        second.take(decode_fragment(encode_packed(fragment)))
    records = list(first.due())
    second.published(records[0])
    assert list(second.due()) == records[1:]


def test_silence_closes_all_windows() -> None:
    board = Board(PLAN)
    board.take(part(0, 0, 1, 1, 0))
    board.quiet(False)
    assert list(board.due()) == []
    board.quiet(True)
    assert len(list(board.due())) == 1


def test_old_windows_go() -> None:
    board = Board(PLAN)
    board.take(part(0, 0, 1, 1))
    board.take(part(0, 21_000, 2, 1))
    assert board.starts() == [21_000]


def test_the_picture_shows_closed_windows_and_says_what_was_refused() -> None:
    board = Board(PLAN)
    for offset in range(40):
        board.take(part(offset, 0, offset, 1, 0, 0, 0, user=f"u{offset}"))
        board.take(part(offset, 0, offset, 1, 1, 0, 0, user=f"u{offset}", arm="b"))
    board.take(part(0, 9000, 90, 1, 1))
    board.take(HeadFragment(3, Head(too_late=2, unreadable=1, windows=[])))
    board.take(AnswersFragment("run", 0, 9000, {"b": Answers([(class_of(20.0), 9), (class_of(500.0), 1)], 2, 8)}))
    board.announced(Announcement("b", "delta", 2, 9, 10, clicks=(8000, 8800)), 9000)
    state = picture(board, PLAN, ["b", "a"], 9500)
    assert state["windows"] == {"closed": 1, "open": 1}
    by_name = {arm["name"]: arm for arm in state["arms"]}
    assert list(by_name) == ["b", "a"]
    b = by_name["b"]
    assert (b["impressions"], b["shown"], b["clicks"], b["ctr"]["value"]) == (40, 160, 80, 0.5)
    assert [point["at"] for point in b["points"]] == [0]
    assert b["served"] == {"epoch": 2, "version": 8}
    assert b["published"] == {"epoch": 2, "version": 9, "at": 9000}
    assert b["answers"] == 10
    assert abs(b["latency_ms"]["p50"] / 20 - 1) < 0.06
    assert abs(b["latency_ms"]["p99"] / 500 - 1) < 0.06
    assert by_name["a"]["latency_ms"] == {"p50": None, "p99": None}
    [comparison] = state["comparisons"]
    assert (comparison["arm"], comparison["than"]) == ("a", "b")
    assert state["freshness_s"]["p50"] == 0.6
    assert (state["counters"]["too_late"], state["counters"]["unreadable"]) == (2, 1)


def test_the_picture_of_nothing_is_one() -> None:
    state = picture(Board(PLAN), PLAN, ["a", "b"], 0)
    assert encode_json(state)
    assert [arm["shown"] for arm in state["arms"]] == [0, 0]


def test_windows_of_this_partition_are_told_apart_by_offset_only() -> None:
    board = Board(PLAN)
    board.take(WindowFragment(PLAN.window_ms, 0, Window(0, offset=3, arms={})))
    before = board.changes
    board.take(WindowFragment(PLAN.window_ms, 0, Window(0, offset=3, arms={})))
    assert board.changes == before
