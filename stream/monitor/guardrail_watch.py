"""Judges the guardrails beside the monitor's counting: the same records and the same rules as `experiment report`."""

import logging
import threading
import time
from collections.abc import Container, Sequence
from functools import partial

from stream.experiment.guardrails.results import GuardrailResult
from stream.experiment.ledger import Ledger, ReadSummary
from stream.experiment.plan import Experiment
from stream.experiment.serving_cost import ServingCosts
from stream.experiment.traffic import Traffic
from stream.kafka.clients import to_record
from stream.kafka.reader import TopicReader
from stream.registry.formats import awaited_json, open_formats
from stream.runtime.closing import Resources
from stream.runtime.logs import log
from stream.schema.erasures import Erasures
from stream.schema.topics import Topics
from stream.settings import Settings, Stage

_logger = logging.getLogger("samstream.monitor")

_READ_S = 0.5
_JUDGE_INTERVAL_S = 10.0
_PAUSE_S = 60.0
_GATHER_S = 5.0
_REGISTRY_S = 5.0


class GuardrailWatch:
    """Follows the topics that the guardrails need in a thread of its own, from `experiment.since` on.

    It keeps users in memory, so when somebody is erased, or reading fails, it begins again with what Kafka has then.

    Args:
        settings: guardrails, arms, and the shares in force.
        stage: of the ramp; what is outside of it does not count.
        users: those who count; None for all.
        erasures: the users who were erased, as the monitor hears of them.
    """

    def __init__(self, settings: Settings, stage: Stage, users: Container[str] | None, erasures: Erasures) -> None:
        self._settings, self._stage, self._users, self._erasures = settings, stage, users, erasures
        self._experiment = Experiment.of_settings(settings)
        self._topics = Topics(settings.topics.prefix)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guardrails", daemon=True)
        self.results: Sequence[GuardrailResult] = ()
        """What each guardrail says of each arm, as of the last look; empty before the first."""

    def start(self) -> None:
        """Begin, if there is any guardrail."""
        if self._experiment.guardrails:
            self._thread.start()

    def close(self) -> None:
        """End."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except Exception as error:  # the page goes on without what it cannot know
                log(_logger, "guardrails_unread", logging.WARNING, error=error, again_s=_PAUSE_S)
                self._stop.wait(_PAUSE_S)
            else:
                log(_logger, "guardrails_again", erased=len(self._erasures))
                self._stop.wait(_GATHER_S)  # many are mostly erased together

    def _follow(self) -> None:
        """Read on and judge until somebody is erased, or the monitor ends."""
        erased, since = len(self._erasures), self._settings.experiment.since
        earliest = max(self._stage.begin, -1 if since is None else 1000 * since.timestamp())
        ledger = Ledger(
            since=round(earliest) if earliest >= 0 else None,
            until=None if self._stage.end == float("inf") else round(self._stage.end),
            users=self._users,
        )
        answers = ServingCosts()
        counts = self._experiment.guardrail_counts(
            ledger, answers, salt=self._settings.salt, users=self._users, now=_now_ms()
        )
        assert counts is not None
        slack_ms = round(1000 * self._settings.worker.max_future_s)
        reader = TopicReader(
            self._settings.kafka,
            Traffic.wanted(self._topics, counts),
            from_beginning=earliest < 0,
            since_ms=max(0, round(earliest) - slack_ms) if earliest >= 0 else None,
            on_missing="skip",
        )
        due = 0.0
        with Resources() as resources:
            resources.add(reader)
            formats = open_formats(self._settings, self._topics, resources)
            traffic = Traffic(
                self._topics,
                ledger,
                answers,
                self._erasures,
                ReadSummary(),
                guardrails=counts,
                users=self._users,
                to_json=partial(awaited_json, formats, wait_s=_REGISTRY_S),
                scores_cut=[partition for topic, partition in reader.removed if topic == self._topics.scores],
            )
            while not self._stop.is_set() and len(self._erasures) == erased:
                for message in reader.read(_READ_S):
                    traffic.take(to_record(message))
                if time.monotonic() >= due and reader.at_end():
                    counts.now = _now_ms()
                    self.results = self._experiment.guardrail_results(counts, ledger.sums)
                    due = time.monotonic() + _JUDGE_INTERVAL_S


def _now_ms() -> int:
    return round(1000 * time.time())
