"""A request is written once and has one outcome: its score, or that none came in time."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stream.gateway.problems import ProblemError
from stream.gateway.requests import Requests, read_identity
from stream.schema.events import Candidate, Impression, RequestKey, Score, Spent, encode_json

NEVER_S = 60.0


def impression(request_id: str = "r", *items: str, slots: int = 2) -> Impression:
    return Impression(request_id, "u", 1000, [Candidate(item) for item in items or ("a", "b", "c")], slots)


def score(asked: Impression, version: int = 1) -> bytes:
    items = [candidate.item for candidate in asked.candidates]
    order = list(range(len(items)))
    slots = min(asked.slots, len(items))
    spent = Spent(0.0, 0.0, 0.0)
    found = [0.5] * len(items)
    return encode_json(
        Score(asked.request_id, asked.user, asked.ts, "sam", 1, version, items, found, order, slots, 0, spent)
    )


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Table:
    """Requests under test, with what they withdrew."""

    def __init__(self, *, deadline_s: float = NEVER_S, remembered: int = 100) -> None:
        self.clock = Clock()
        self.withdrawn: list[Impression] = []
        self.requests = Requests(
            deadline_s=deadline_s,
            remember_s=10.0,
            remembered=remembered,
            withdraw=self.withdraw,
            clock=self.clock,
        )

    def withdraw(self, asked: Impression) -> list[int]:
        """Return the candidates' order backwards."""
        self.withdrawn.append(asked)
        return list(range(len(asked.candidates)))[::-1]

    def take(self, asked: Impression, version: int = 1) -> None:
        self.requests.take(asked.request, score(asked, version))


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(whole())


def test_the_first_score_is_the_outcome_for_all_who_ask_the_same() -> None:
    async def test() -> None:
        table, asked = Table(), impression()
        assert table.requests.known(asked) is None
        outcome = table.requests.ask(asked)
        again = table.requests.known(asked)
        table.take(asked, version=1)
        table.take(asked, version=2)
        assert again is outcome
        found = await outcome
        assert isinstance(found, Score)
        assert isinstance(found, Score)
        assert found.version == 1
        assert table.requests.known(asked) is outcome
        assert not table.withdrawn

    run(test)


def test_what_was_asked_elsewhere_is_known_by_its_score() -> None:
    async def test() -> None:
        table, asked = Table(), impression()
        table.take(asked)
        known = table.requests.known(asked)
        assert known is not None
        found = await known
        assert isinstance(found, Score)
        assert found.request == RequestKey("u", "r")
        with pytest.raises(ProblemError) as raised:
            table.requests.known(impression("r", "a", "b"))
        assert raised.value.status == 409

    run(test)


@pytest.mark.parametrize("other", [impression("r", "a", "b"), impression("r", "b", "a", "c"), impression(slots=1)])
def test_the_same_id_for_something_else_is_a_conflict_before_and_after_the_answer(other: Impression) -> None:
    async def test() -> None:
        table, asked = Table(), impression()
        table.requests.ask(asked)
        for _ in range(2):
            with pytest.raises(ProblemError) as raised:
                table.requests.known(other)
            assert raised.value.status == 409
            table.take(asked)

    run(test)


def test_after_the_deadline_a_request_is_withdrawn_once_and_a_late_score_changes_nothing() -> None:
    async def test() -> None:
        table, asked = Table(deadline_s=0.001), impression()
        outcome = table.requests.ask(asked)
        assert await outcome == [2, 1, 0]
        table.take(asked)
        assert table.withdrawn == [asked]
        assert table.requests.late == 1
        again = table.requests.known(asked)
        assert again is not None
        assert await again == [2, 1, 0]

    run(test)


def test_a_score_of_other_items_is_another_front_ends() -> None:
    async def test() -> None:
        table, asked = Table(), impression()
        outcome = table.requests.ask(asked)
        table.take(impression("r", "x", "y"))
        table.requests.take(asked.request, b'{"request_id":"r","user":"u"}')
        assert not outcome.done()
        assert table.requests.malformed == 1
        table.take(asked)
        assert outcome.done()

    run(test)


def test_outcomes_are_forgotten_by_age_and_by_number_but_not_while_they_wait() -> None:
    async def test() -> None:
        table = Table(remembered=3)
        waits = table.requests.ask(impression("waits"))
        for number in range(10):
            table.take(impression(f"r{number}"))
        assert len(table.requests) == 1 + 3, "what waits keeps nothing else from being forgotten"
        assert table.requests.known(impression("waits")) is waits
        table.take(impression("waits"))
        for number in range(10, 20):
            table.take(impression(f"r{number}"))
        assert len(table.requests) == 3
        assert not table.withdrawn
        assert table.requests.known(impression("r5")) is None
        assert table.requests.known(impression("r19")) is not None
        table.clock.now += 11.0
        assert table.requests.known(impression("r19")) is None
        table.take(impression("new"))
        assert len(table.requests) == 1

    run(test)


def test_a_click_must_fit_what_is_known_of_its_request() -> None:
    async def test() -> None:
        table = Table()
        waits, answered, elsewhere = impression("waits"), impression("answered"), impression("elsewhere")
        table.requests.ask(waits)
        table.requests.ask(answered)
        table.take(answered)
        table.take(elsewhere)
        for asked in (waits, answered, elsewhere):
            table.requests.clicked(asked.request, "a", 1500, 1000.0)
            for item, ts in (("z", 1500), ("a", 2001)):
                with pytest.raises(ProblemError) as raised:
                    table.requests.clicked(asked.request, item, ts, 1000.0)
                assert raised.value.status == 422
        table.requests.clicked(RequestKey("u", "nobody asked"), "z", 0, 1000.0)

    run(test)


def test_the_identity_of_a_score_is_read_without_the_rest() -> None:
    assert read_identity(score(impression())) == RequestKey("u", "r")
    for wrong in (b"", b"{}", b"[]", b'{"request_id": 5, "user": "u"}', b"\xff"):
        assert read_identity(wrong) is None
