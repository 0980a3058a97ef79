"""Which arm a user is in: a pure function of salt, arms, shares and user, which other programs can compute as well."""

import math
from collections.abc import Mapping

from xxhash import xxh3_64_intdigest


class Assignment:
    """Users assigned to arms by weighted rendezvous hashing: no state, the same in every process.

    For each arm with a share above 0, let h be XXH3-64 (seed 0) of the UTF-8 bytes of `salt:arm:user`, as an unsigned
    number, and u = (h + 1) / 2⁶⁴. The user is in the arm with the least −ln(u) / share, the first of them if two are
    equal. These are exponential variables with the shares as rates, so an arm is least with a probability in proportion
    to its share (Efraimidis and Spirakis, Information Processing Letters 97, 2006).

    A share is a weight; shares need not sum to 1. When one share grows, users only move into that arm, when it shrinks
    they only leave it, and as few as the new shares allow; the same goes for an arm that comes or goes. The order of
    the arms means nothing.

    >>> Assignment({"a": 1, "b": 0}, salt="s").arm("anybody")
    'a'
    """

    def __init__(self, shares: Mapping[str, float], *, salt: str) -> None:
        self._arms = [(name, f"{salt}:{name}:", share) for name, share in shares.items() if share > 0]

    def arm(self, user: str) -> str:
        """Return the name of the user's arm."""
        return min(
            self._arms,
            key=lambda arm: -math.log((xxh3_64_intdigest((arm[1] + user).encode()) + 1) / 2**64) / arm[2],
        )[0]
