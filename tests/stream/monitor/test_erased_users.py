"""Outcomes of users who were erased: what was answered before is nobody's, what comes later begins a new row."""

from stream.experiment.span_moments import SpanMoments
from stream.monitor.users import PartitionMoments, UserCounter, UserRow
from stream.schema.events import Outcome

GONE = "gone"
CUT = 10


def outcome(request: str, read_to: int, user: str = GONE) -> Outcome:
    return Outcome(request, user, "a", 5, 1, 1, ["i"], [0], [0.5], [1], read_to=read_to)


def counted(
    *outcomes: Outcome, sums: PartitionMoments | None = None, rows: dict[str, UserRow] | None = None, begin: int = 0
) -> tuple[PartitionMoments, dict[str, UserRow]]:
    void = lambda user, read_to: user == GONE and read_to <= CUT  # noqa: E731
    users = UserCounter(1, sums, (rows or {}).get, void=void)
    for offset, each in enumerate(outcomes, begin):
        users.add(offset, each, [0])
    return users.closed(begin + len(outcomes) - 1)


def test_an_outcome_from_before_makes_no_row_and_one_from_after_says_since_when() -> None:
    _, rows = counted(outcome("r1", CUT), outcome("r2", CUT + 1), outcome("r3", CUT + 5), outcome("r1", 3, "other"))
    assert {user: row.since for user, row in rows.items()} == {GONE: CUT + 1, "other": 3}
    assert rows[GONE].spans[0][1] == 2


def test_the_sums_keep_what_an_erased_row_had_brought_and_count_the_user_anew() -> None:
    users = UserCounter(1, None, lambda _: None)
    users.add(0, outcome("r1", 1), [0])
    sums, _ = users.closed(0)
    # The row was removed; what comes later is a new user's.
    again, rows = counted(outcome("r2", CUT + 1), sums=sums, begin=1)
    moments = SpanMoments.unpack(again.spans)
    assert rows[GONE].since == CUT + 1
    assert moments.pack() != SpanMoments.unpack(sums.spans).pack()
