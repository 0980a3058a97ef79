"""A guardrail as an experiment's file states it: a metric, its limit, and which side of the limit is the bad one."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from stream.errors import ExperimentError
from stream.settings.limits import Name, Positive

Metric = Literal["latency_p99_ms", "unanswered", "calibration", "action"]

SLOW_SHARE = 0.01
"""A p99 within its limit is a share of slower answers of at most this."""

_RELATIVE = ("unanswered", "action")
_ONLY_AT_MOST = ("latency_p99_ms", "unanswered")


class Guardrail(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A metric that must stay on one side of a limit. Exactly one of `at_most` and `at_least` is set.

    Attributes:
        metric: `latency_p99_ms`, of the answers; `unanswered`, the share of the impressions without an answer;
            `calibration`, predicted over real clicks; `action`, behaviours of one kind for each impression.
        at_most: the metric must not be above this; ms for `latency_p99_ms`.
        at_least: the metric must not be below this.
        relative_to: an arm. The limit is then a relative change against that arm: `at_least = -0.05` allows 5% less.
        action: which action of `behaviors` is counted, such as `purchase` or `hide`.
        within_s: how long after an impression an action counts, seconds.
    """

    metric: Metric
    at_most: float | None = None
    at_least: float | None = None
    relative_to: Name | None = None
    action: Annotated[str, Meta(max_length=256)] = ""
    within_s: Positive = 3600.0

    @property
    def limit(self) -> float:
        """The limit, whichever side is the bad one."""
        return self.at_most if self.at_most is not None else self.at_least or 0.0

    @property
    def name(self) -> str:
        """What is measured, in words."""
        if self.metric == "latency_p99_ms":
            return f"share of answers slower than {self.limit:g} ms"
        if self.metric == "action":
            return f"{self.action} within {self.within_s:g} s, for each impression"
        return {"unanswered": "share of impressions without an answer", "calibration": "predicted over real clicks"}[
            self.metric
        ]

    @property
    def limit_words(self) -> str:
        """The limit in words.

        >>> Guardrail(metric="action", action="hide", at_most=0.1, relative_to="din").limit_words
        'at most +10% against din'
        """
        side = "at most" if self.at_most is not None else "at least"
        if self.metric == "latency_p99_ms":
            return f"{side} {SLOW_SHARE:.0%}"
        if self.relative_to is not None:
            return f"{side} {100 * self.limit:+g}% against {self.relative_to}".replace("-", "−")
        return f"{side} {self.limit:g}"

    def check(self, arms: tuple[str, ...]) -> None:
        """Refuse what cannot be judged.

        Args:
            arms: names of the arms that the experiment compares.

        Raises:
            ExperimentError: says what is wrong with the guardrail, and what to write.
        """
        for wrong, text in (
            ((self.at_most is None) == (self.at_least is None), "set either at_most or at_least: the side that is bad"),
            (self.metric in _ONLY_AT_MOST and self.at_least is not None, "more of it is worse: set at_most"),
            (
                self.relative_to is not None and self.metric not in _RELATIVE,
                f"only {' and '.join(_RELATIVE)} can be relative to an arm: leave relative_to out",
            ),
            (
                self.relative_to is not None and self.relative_to not in arms,
                f"relative_to names {self.relative_to!r}, which is not compared: these are {', '.join(arms)}",
            ),
            (self.relative_to is not None and self.limit <= -1, "a relative limit is above −1: −0.05 is 5% less"),
            (self.relative_to is None and self.limit <= 0, "a limit is above 0, unless it is relative_to an arm"),
            (
                self.metric == "unanswered" and self.relative_to is None and self.limit >= 1,
                "a share is below 1: 0.001 is one impression of a thousand",
            ),
            ((self.metric == "action") != bool(self.action), 'metric = "action" goes with action = "purchase", say'),
        ):
            if wrong:
                raise ExperimentError(f"guardrail {self.metric}: {text}")
