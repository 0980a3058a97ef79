"""Where a task resumes its partition: offsets to read from, and answers that were given before."""

from dataclasses import dataclass, field
from typing import NamedTuple

from stream.schema.events import RequestKey, Score, SequenceName
from stream.schema.position import LogIdentity


class GivenAnswer(NamedTuple):
    """An answer as it was found in `scores`.

    Attributes:
        score: what was told.
        numbers: what the stream knew of its candidates, as in `Sample.numbers`.
        checksum: of the sequence that it was given for, as in `SequenceName`; 0 when not known.
        timestamp: Kafka timestamp (ms) of its record, by the clock of who answered; −1 when not known.
    """

    score: Score
    numbers: bytes = b""
    timestamp: int = -1
    checksum: int = 0

    @property
    def sequence(self) -> SequenceName:
        """Names the sequence that it was given for."""
        return SequenceName(self.score.seen, self.score.read_to, self.checksum)


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a task resumes its partition.

    Attributes:
        offsets: topic → the offset to read on from; of `scores`, where the answers beyond the state begin.
        answers: request → the first answer given to it, beyond what the state knows.
        scores_end: the offset in `scores` behind them.
        committed_impressions: the group's committed offset: impressions below it have been answered.
        ends: input topic → its end offset at the start.
        logs: topic → which log it is.
        timestamps: topic → Kafka timestamp (ms) of the record before its offset, where it is known.
        stale_state: the group's offset is beyond the state: another worker went on, and the state's open requests are
            found in `scores` instead.
        group_behind: the state is beyond the group's offsets: they were not committed, or Kafka refused them.
        missing: records that Kafka had removed before they were read.
        later_answers: request → further answers, where the first may be one to an impression of before.
    """

    offsets: dict[str, int]
    answers: dict[RequestKey, GivenAnswer]
    scores_end: int
    committed_impressions: int
    ends: dict[str, int]
    logs: dict[str, LogIdentity] = field(default_factory=dict)
    timestamps: dict[str, int] = field(default_factory=dict)
    stale_state: bool = False
    group_behind: bool = False
    missing: int = 0
    later_answers: dict[RequestKey, list[GivenAnswer]] = field(default_factory=dict)
