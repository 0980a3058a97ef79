"""Latency and CPU time of answers, by arm, as the records in `scores` state them."""

from array import array
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stream.schema.events import Score


@dataclass(slots=True)
class ArmServingCosts:
    """Of each answer: time of its impression (ms since the epoch), latency (ms), and CPU time (ms) where known."""

    at: "array[int]" = field(default_factory=lambda: array("q"))
    latency: "array[float]" = field(default_factory=lambda: array("f"))
    cpu: "array[float]" = field(default_factory=lambda: array("f"))

    @property
    def cpu_ms(self) -> float:
        """Mean CPU time of an answer, ms; NaN where none states it."""
        return float(np.mean(self.cpu)) if self.cpu else float("nan")

    def latencies(self) -> npt.NDArray[np.float32]:
        """Return the (n,) latencies, ms."""
        return np.frombuffer(self.latency, dtype=np.float32) if self.latency else np.zeros(0, np.float32)

    def sample(self, limit: int, *, first: float) -> list[tuple[float, float]]:
        """Return at most `limit` of (s since `first`, latency), evenly chosen; `first` in ms."""
        step = max(1, -(-len(self.at) // limit))
        return [((at - first) / 1000, ms) for at, ms in zip(self.at[::step], self.latency[::step], strict=True)]


class ServingCosts:
    """Latency and CPU time of all answers; latency is from the impression's Kafka timestamp until it was scored."""

    def __init__(self) -> None:
        self.arms: dict[str, ArmServingCosts] = defaultdict(ArmServingCosts)

    def add(self, score: Score) -> None:
        """Add an answer."""
        arm, spent = self.arms[score.arm], score.spent_ms
        arm.at.append(score.ts)
        arm.latency.append(spent.wait + spent.state + spent.score)
        if spent.cpu > 0:
            arm.cpu.append(spent.cpu)
