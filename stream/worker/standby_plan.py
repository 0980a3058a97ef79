"""Which partitions a worker would be given if other workers died: those of which it is worth keeping a copy."""

from collections.abc import Sequence


def partitions_of(place: int, members: int, partitions: int) -> range:
    """Return the partitions that the range assignor gives to one of several members.

    Args:
        place: of the member in the assignor's order, from 0.
        members: how many there are.
        partitions: how many partitions each topic has.
    """
    each, more = divmod(partitions, members)
    begin = place * each + min(place, more)
    return range(begin, begin + each + (place < more))


def standby_partitions(held: Sequence[frozenset[int]], place: int, partitions: int, deaths: int) -> list[int]:
    """Return the partitions that a member does not have, and would be given after up to so many deaths of others.

    Each partition is then copied by exactly those who may get it. The idea is that of standby replicas in Kafka Streams
    (KIP-441), but the assignment stays Kafka's own: it is foreseen here, not made.

    Args:
        held: the partitions of each member, in the assignor's order.
        place: of the member that asks.
        partitions: how many partitions each topic has.
        deaths: the most other members that may die at once.
    """
    behind = len(held) - 1 - place
    foreseen = {
        number
        for dead in range(1, min(deaths, len(held) - 1) + 1)
        for before in range(max(0, dead - behind), min(dead, place) + 1)
        for number in partitions_of(place - before, len(held) - dead, partitions)
    }
    return sorted(foreseen - held[place])
