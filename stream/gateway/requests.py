"""The requests of one gateway: those that wait for their scores, and the answers of the last minute."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from msgspec import Struct

from stream.gateway.bodies import FieldError
from stream.gateway.problems import ProblemError
from stream.schema.events import DECODE_ERRORS, Impression, RequestKey, Score, decode_score

Outcome = Score | list[int]
"""The score that a request was answered with; where none came in time, and it was withdrawn, the order of its
candidates that it gets instead."""


class _Identity(Struct, gc=False):
    request_id: str
    user: str


_decode_identity = msgspec.json.Decoder(_Identity).decode


class _Entry:
    """One request: what was asked, its score as it came, and its outcome, as far as they are known."""

    __slots__ = ("deadline", "impression", "outcome", "score", "settled")

    def __init__(self) -> None:
        self.impression: Impression | None = None
        """Kept while no score has answered it."""
        self.score: bytes | None = None
        """The record of a score that nobody here has asked for; decoded only when somebody does."""
        self.outcome: asyncio.Future[Outcome] | None = None
        self.deadline: asyncio.TimerHandle | None = None
        self.settled = 0.0


def read_identity(value: bytes) -> RequestKey | None:
    """Return whose answer a record of `scores` is; None for one that is none."""
    try:
        named = _decode_identity(value)
    except DECODE_ERRORS:
        return None
    return RequestKey(named.user, named.request_id)


class Requests:
    """Knows each request by its user and id: it is written once, and has one outcome, whoever asks again.

    Everything happens in one event loop. What waits is bounded by who calls `ask`; what is remembered, here.

    Args:
        deadline_s: how long a request waits for its score.
        remember_s: how long its outcome is remembered.
        remembered: how many are remembered at most.
        withdraw: is called when a request's time is over, before its outcome is known; returns the order of its
            candidates that it gets instead.
        clock: monotonic, seconds.
    """

    def __init__(
        self,
        *,
        deadline_s: float,
        remember_s: float,
        remembered: int,
        withdraw: Callable[[Impression], list[int]],
        clock: Callable[[], float],
    ) -> None:
        self._deadline_s = deadline_s
        self._remember_s = remember_s
        self._remembered = remembered
        self._withdraw = withdraw
        self._clock = clock
        self._waiting: dict[RequestKey, _Entry] = {}
        self._settled: OrderedDict[RequestKey, _Entry] = OrderedDict()
        self.late = 0
        """Scores that came after their request was withdrawn."""
        self.malformed = 0
        """Records that are no answers."""

    def __len__(self) -> int:
        """Return how many requests are known."""
        return len(self._waiting) + len(self._settled)

    def known(self, impression: Impression) -> asyncio.Future[Outcome] | None:
        """Return the outcome of a request that was asked before; None for a new one.

        Raises:
            ProblemError: 409, when it was asked with other items or slots.
        """
        entry = self._entry(impression.request)
        if entry is None:
            return None
        if entry.outcome is None:
            assert entry.score is not None
            try:
                score = decode_score(entry.score)
            except DECODE_ERRORS:
                self.malformed += 1
                return None
            entry.outcome = asyncio.get_running_loop().create_future()
            entry.outcome.set_result(score)
            asked = score.items, score.slots
        elif entry.impression is not None:
            asked = _asked(entry.impression)
        else:
            answered = entry.outcome.result()
            assert isinstance(answered, Score)
            asked = answered.items, answered.slots
        if asked != _asked(impression):
            raise ProblemError(
                409,
                f"user {impression.user!r} has asked as request_id {impression.request_id!r} before, with other"
                " candidates or slots: give each request an id of its own",
            )
        return entry.outcome

    def ask(self, impression: Impression) -> asyncio.Future[Outcome]:
        """Take a new request, whose impression is being written; returns what becomes of it."""
        loop = asyncio.get_running_loop()
        entry = self._waiting[impression.request] = _Entry()
        entry.impression, entry.outcome = impression, loop.create_future()
        entry.deadline = loop.call_later(self._deadline_s, self._expire, impression)
        return entry.outcome

    def take(self, request: RequestKey, value: bytes) -> None:
        """Take a score, as it came from Kafka; the first one of a request counts."""
        if (waiting := self._waiting.get(request)) is not None:
            self._settle(waiting, value)
        elif (entry := self._entry(request)) is None:
            # Asked elsewhere, or here before a restart: whoever asks again gets it.
            entry = _Entry()
            entry.score = value
            self._remember(request, entry)
        elif entry.impression is not None:
            self.late += 1

    def clicked(self, request: RequestKey, item: str, ts: int, window_ms: float) -> None:
        """See whether a click fits what is known of its request.

        Raises:
            ProblemError: 422, when the item was no candidate, or the click came after the window.
        """
        entry = self._entry(request)
        known = self._items(entry) if entry is not None else None
        if known is None:
            return
        items, asked_at = known
        if item not in items:
            raise _click_problem(f"item {item!r} was no candidate of request {request.request_id!r}", "/item")
        if ts > asked_at + window_ms:
            late = f"`ts` is {ts - asked_at} ms after its impression; the window is {window_ms:.0f} ms"
            raise _click_problem(late, "/ts")

    def _items(self, entry: _Entry) -> tuple[list[str], int] | None:
        """Return the items of a request, and its `ts`."""
        if entry.impression is not None:
            return _asked(entry.impression)[0], entry.impression.ts
        if entry.outcome is not None:
            score = entry.outcome.result()
            assert isinstance(score, Score)
        else:
            try:
                score = decode_score(entry.score or b"")
            except DECODE_ERRORS:
                return None
        return score.items, score.ts

    def _settle(self, entry: _Entry, value: bytes) -> None:
        assert entry.impression is not None
        assert entry.outcome is not None
        try:
            score = decode_score(value)
        except DECODE_ERRORS:
            self.malformed += 1
            return
        if (score.items, score.slots) != _asked(entry.impression):
            return  # another front end's request of the same id
        if entry.deadline is not None:
            entry.deadline.cancel()
        entry.impression, entry.deadline = None, None
        self._remember(score.request, self._waiting.pop(score.request))
        entry.outcome.set_result(score)

    def _expire(self, impression: Impression) -> None:
        entry = self._waiting.pop(impression.request)
        assert entry.outcome is not None
        entry.deadline = None
        self._remember(impression.request, entry)
        order = list(range(len(impression.candidates)))
        try:
            order = self._withdraw(impression)
        finally:
            entry.outcome.set_result(order)

    def _entry(self, request: RequestKey) -> _Entry | None:
        if (waiting := self._waiting.get(request)) is not None:
            return waiting
        entry = self._settled.get(request)
        return None if entry is None or self._is_old(entry) else entry

    def _remember(self, request: RequestKey, entry: _Entry) -> None:
        entry.settled = self._clock()
        self._settled.pop(request, None)
        self._settled[request] = entry
        while len(self._settled) > self._remembered or self._is_old(next(iter(self._settled.values()))):
            self._settled.popitem(last=False)  # the newest is not old, so one stays

    def _is_old(self, entry: _Entry) -> bool:
        return self._clock() - entry.settled > self._remember_s


def _asked(impression: Impression) -> tuple[list[str], int]:
    items = [candidate.item for candidate in impression.candidates]
    return items, min(impression.slots, len(items))


def _click_problem(text: str, pointer: str) -> ProblemError:
    return ProblemError(422, text, [FieldError(text, pointer)])
