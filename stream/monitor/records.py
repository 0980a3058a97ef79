"""What the monitor writes: `experiment-metrics` for everybody, and partials for the monitors themselves."""

import math

import msgspec
from msgspec import Struct

from stream.monitor.counting import BIN_EDGES, ArmCounts, PartitionProgress, WindowCounts
from stream.monitor.users import PartitionMoments, UserRow


class CurvePoint(Struct, frozen=True):
    """A bin of the calibration curve: predicted probabilities in [`low`, `high`), items, and the means of both sides.

    `predicted` and `observed` are null where nothing was shown.
    """

    low: float
    high: float
    shown: int
    predicted: float | None
    observed: float | None


class ArmWindow(Struct, frozen=True):
    """A record of `experiment-metrics`, JSON: one arm in one window. The newest record of (arm, start) holds.

    Attributes:
        arm: its name.
        start, end: of the window by the impressions' `ts`, ms since the epoch; `end` is not in it.
        revision: 1 when the window closed, more when outcomes came later.
        impressions: requests of which something was counted.
        shown: items shown.
        clicks: of them clicked.
        ctr: clicks / shown.
        log_loss: mean over items, natural logarithm.
        calibration: mean predicted / mean observed; null without a click.
        curve: the calibration curve.
        epoch, version: the newest model state that answered.
    """

    arm: str
    start: int
    end: int
    revision: int
    impressions: int
    shown: int
    clicks: int
    ctr: float
    log_loss: float
    calibration: float | None
    curve: list[CurvePoint]
    epoch: int
    version: int

    @classmethod
    def of(cls, arm: str, start: int, end: int, counts: ArmCounts, *, revision: int) -> "ArmWindow":
        """Return the record that says `counts`, which are of something."""
        shown, clicks = sum(counts.shown), sum(counts.clicks)
        return cls(
            arm=arm,
            start=start,
            end=end,
            revision=revision,
            impressions=counts.requests,
            shown=shown,
            clicks=clicks,
            ctr=_rounded(clicks / shown),
            log_loss=_rounded(counts.loss / shown),
            calibration=calibration(counts),
            curve=curve(counts),
            epoch=counts.epoch,
            version=counts.version,
        )


def calibration(counts: ArmCounts) -> float | None:
    """Return mean predicted / mean observed; None without a click."""
    clicks = sum(counts.clicks)
    return _rounded(sum(counts.predicted) / clicks) if clicks else None


def curve(counts: ArmCounts) -> list[CurvePoint]:
    """Return the calibration curve."""
    return [
        CurvePoint(
            low,
            high,
            shown,
            _rounded(predicted / shown) if shown else None,
            _rounded(clicks / shown) if shown else None,
        )
        for low, high, shown, clicks, predicted in zip(
            BIN_EDGES, BIN_EDGES[1:], counts.shown, counts.clicks, counts.predicted, strict=False
        )
    ]


class WindowPartial(Struct, frozen=True, array_like=True, tag="window"):
    """One partition's part of a window, without ids; the one of the highest offset holds."""

    window_ms: int
    partition: int
    window: WindowCounts


class ProgressPartial(Struct, frozen=True, array_like=True, tag="head"):
    """What a partition could not count, and how far it is; without the list of windows."""

    partition: int
    progress: PartitionProgress


class MomentsPartial(Struct, frozen=True, array_like=True, tag="sums"):
    """The moments of one partition's users; those of the highest offset hold."""

    partition: int
    sums: PartitionMoments


class AnswerCounts(Struct, array_like=True):
    """An arm's answers in a window: (latency class, count), and the newest model state."""

    latencies: list[tuple[int, int]]
    epoch: int = 0
    version: int = 0


class AnswersPartial(Struct, frozen=True, array_like=True, tag="answers"):
    """What one monitor process saw of a partition of `scores` in the window from `start` (ms), by arm."""

    run: str
    partition: int
    start: int
    arms: dict[str, AnswerCounts]


Partial = WindowPartial | ProgressPartial | MomentsPartial | AnswersPartial


def key_of(partial: Partial) -> bytes:
    """Return the Kafka key under which a partial replaces the one before it."""
    match partial:
        case WindowPartial(window_ms, partition, window):
            return f"window/{window_ms}/{partition}/{window.start}".encode()
        case ProgressPartial(partition, _):
            return f"head/{partition}".encode()
        case MomentsPartial(partition, _):
            return f"sums/{partition}".encode()
        case AnswersPartial(run, partition, start, _):
            return f"answers/{run}/{partition}/{start}".encode()


def _rounded(value: float) -> float:
    """Return a value without the digits that depend on the order of a sum."""
    return 0.0 if value == 0 else round(value, 8 - math.floor(math.log10(abs(value))))


encode_packed = msgspec.msgpack.Encoder().encode
decode_partial = msgspec.msgpack.Decoder(Partial).decode
decode_window = msgspec.msgpack.Decoder(WindowCounts).decode
decode_moments = msgspec.msgpack.Decoder(PartitionMoments).decode
decode_user = msgspec.msgpack.Decoder(UserRow).decode
decode_progress = msgspec.msgpack.Decoder(PartitionProgress).decode
encode_json = msgspec.json.Encoder().encode
decode_arm_window = msgspec.json.Decoder(ArmWindow).decode
