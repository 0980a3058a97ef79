"""What was answered and not shown: nothing is learned from it, whenever that becomes known."""

import msgspec
import pytest

from stream.schema.events import Withdrawal, decode_request, encode_json
from tests.stream.task.support import LATER, TOPICS, USER, USERS, Bench, Log, behavior, click, impression, withdrawal


@pytest.mark.long
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_withdrawn_request_is_answered_and_not_learned(bench: Bench, turns: int) -> None:
    """In the step in which the request is scored, in the next one, and after a click."""
    log = Log(impression(ts=0), impression("kept", 0), withdrawal(ts=0), click("c3", 10), click("c3", 10, "kept"))
    cut = [log.records] if turns == 1 else [log.records[:2], log.records[2:]]
    if turns == 3:
        cut = [log.records[:2], log.records[3:], log.records[2:3]]
    for records in cut:
        bench.turn(*records)
    bench.turn(log.write(behavior("x", LATER, user=USERS[1])))
    assert {request.request_id for request in bench.scores} == {"r", "kept"}
    late = int(turns == 3)
    assert {sample.request_id for sample in bench.samples} == {"kept"} | ({"r"} if late else set())
    assert (bench.task.counts["withdrawn"], bench.task.counts["withdrawn_late"]) == (1, late)
    assert not bench.refused


def test_a_withdrawal_of_what_was_never_asked_is_counted(bench: Bench) -> None:
    bench.turn(*Log(withdrawal("nothing")).records)
    assert bench.task.counts["withdrawn_unknown"] == 1
    assert not bench.refused


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b'{"withdraws": "r", "user": "USER"}', "`ts`"),
        (b'{"withdraws": 5, "user": "USER", "ts": 5}', "$.withdraws"),
        (b'{"withdraws": "r", "user": "USER", "ts": -5}', "$.ts"),
        (b'{"user": "USER", "ts": 5, "category": "withdraws"}', "request_id"),
    ],
)
def test_a_withdrawal_that_cannot_be_read_is_refused_and_names_the_field(bench: Bench, value: bytes, says: str) -> None:
    bench.turn(Log().put(TOPICS.impressions, value.replace(b"USER", USER.encode())))
    [reason] = bench.reasons()
    assert says in reason


def test_a_record_of_impressions_is_an_impression_or_a_withdrawal() -> None:
    asked, withdrawn = impression(), withdrawal()
    assert decode_request(encode_json(asked)) == asked
    assert decode_request(encode_json(withdrawn)) == withdrawn
    assert isinstance(withdrawn, Withdrawal)
    with pytest.raises(msgspec.ValidationError):
        decode_request(b"{}")
