"""Where a worker resumes a partition: offsets to read from, and answers that were given before."""

from dataclasses import dataclass

from stream.schema.events import Score


@dataclass(frozen=True, slots=True)
class Start:
    """How to begin on a partition.

    Attributes:
        offsets: topic → the offset to read on from; of `scores`, where the answers beyond the state begin.
        answers: request id → the first answer given to it, beyond what the state knows.
        answers_end: the offset in `scores` behind them.
        answered: the group has answered the impressions below this offset.
        overtaken: the group went on beyond the state, elsewhere: the state's open requests are no longer its own.
        ends: input topic → where it ended at the start.
    """

    offsets: dict[str, int]
    answers: dict[str, Score]
    answers_end: int
    answered: int
    ends: dict[str, int]
    overtaken: bool = False
