"""One event of a key in half a minute; the others are counted."""

from stream.runtime.log_limit import INTERVAL_S, LogLimit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_passes_and_the_next_after_the_interval_with_a_count() -> None:
    clock = Clock()
    limit = LogLimit(clock=clock)
    assert limit.admit("a") == 0
    assert [limit.admit("a") for _ in range(3)] == [None] * 3
    clock.now = INTERVAL_S - 0.1
    assert limit.admit("a") is None
    clock.now = INTERVAL_S
    assert limit.admit("a") == 4
    clock.now = 3 * INTERVAL_S
    assert limit.admit("a") == 0


def test_keys_are_apart_and_a_given_time_goes_before_the_clock() -> None:
    limit = LogLimit(clock=Clock())
    assert [limit.admit("a", now=100.0), limit.admit(("a", "b"), now=100.0)] == [0, 0]
    assert [limit.admit("a", now=129.9), limit.admit("a", now=130.0)] == [None, 1]


def test_keys_that_are_forgotten_are_let_through() -> None:
    limit = LogLimit(clock=Clock())
    assert [limit.admit(number) for number in range(900)] == [0] * 900
    assert limit.admit(0) == 0
    assert limit.admit(899) is None
