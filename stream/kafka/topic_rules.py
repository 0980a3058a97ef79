"""What the settings of the topics must be, should be, and are only different from: one table, and no Kafka client.

| rule | breaks | severity |
|---|---|---|
| records must not be compacted away | `cleanup.policy` with `compact` on any topic but these two | error |
| erased users stay erased | `erasures` with `delete`, which would forget them | error |
| parameters must be there for who starts | `model-updates` without `compact` | error |
| parameters should not go with time | `model-updates` with `compact,delete` | warning |
| what is read again must be there | `retention.ms` below what the settings need (`Needs`) | error |
| who was away comes back to what was written | `retention.ms` below a day; of `behaviors` below 30 days | warning |
| age decides, not size | `retention.bytes` set | warning |
| the broker stamps what comes from outside | `CreateTime` on `behaviors`, `impressions`, `clicks` | error |
| a record that is made can be sent | `max.message.bytes` below what samstream writes there | error |
| acknowledged records stay | `unclean.leader.election.enable` | warning |
| a broker may go | `min.insync.replicas` 1 of several replicas, or as many as replicas | note |
| as `topics create` makes it | any other difference | note |
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from stream.schema.topics import RECORD_BYTES, Topics
from stream.schema.units import DAY_MS

Severity = Literal["error", "warning", "note"]

_RECORD_OVERHEAD = 1_000
_LEAST_CUT_BYTES = 10_000
"""Updates and dead letters are cut to what their topics take, from about this on."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said of a topic's setting: how bad it is, the topic, and a text for a person."""

    severity: Severity
    topic: str
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.topic}: {self.text}"


@dataclass(frozen=True, slots=True)
class Needs:
    """How long topics must keep their records, in milliseconds, and for what; by default as the default settings need.

    Attributes:
        window_ms: an attribution window with its allowed lateness.
        checkpoint_ms: time between two checkpoints of the trainer.
        monitor_ms: a window of the monitor, until its outcomes have come.
    """

    window_ms: int = 65_000
    checkpoint_ms: int = 30_000
    monitor_ms: int = 75_000


def check_settings(
    topics: Topics, configs: Mapping[str, Mapping[str, str]], needs: Needs, replicas: Mapping[str, int]
) -> list[Finding]:
    """Return what is to be said of the settings of topics, the worst first.

    Args:
        topics: the names.
        configs: topic → setting → value, as Kafka has them; what it does not say breaks no rule.
        needs: how long records must be kept.
        replicas: topic → replicas of its partitions, where known.
    """
    return worst_first(
        finding
        for topic in topics
        if (config := configs.get(topic.name)) is not None
        for finding in _check(topics, topic.name, topic.config, config, needs, replicas.get(topic.name, 1))
    )


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings in order: errors, warnings, notes."""
    order = ("error", "warning", "note")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def _check(
    topics: Topics, name: str, wanted: Mapping[str, str], config: Mapping[str, str], needs: Needs, replicas: int
) -> Iterator[Finding]:
    """Yield the findings of one topic; a setting that breaks a rule is not noted as different as well."""
    said: set[str] = set()
    for setting, severity, text in (
        *_policy(topics, name, config),
        *_retention(topics, name, config, needs),
        *_stamp(topics, name, config),
        *_size(topics, name, config),
        *_replicas(config, replicas),
    ):
        said.add(setting)
        yield Finding(severity, name, text)
    for setting, value in wanted.items():
        if setting not in said and (actual := config.get(setting, value)) != value:
            yield Finding("note", name, f"{setting}={actual}; samstream would set {value}")


Broken = Iterator[tuple[str, Severity, str]]


def _policy(topics: Topics, name: str, config: Mapping[str, str]) -> Broken:
    setting = "cleanup.policy"
    if (value := config.get(setting)) is None:
        return
    policies = {policy.strip() for policy in value.split(",")}
    if name == topics.erasures:
        if policies != {"compact"}:
            text = f"{setting}={value} forgets who was erased, and old states bring them back; set it to compact"
            yield setting, "error", text
    elif name != topics.model_updates:
        if "compact" in policies:
            text = f"{setting}={value} leaves the newest record of each key alone; set it to delete"
            yield setting, "error", text
    elif "compact" not in policies:
        yield (
            setting,
            "error",
            f"{setting}={value} removes the parameters that a starting worker needs; set it to compact",
        )
    elif "delete" in policies:
        yield setting, "warning", f"{setting}={value} removes parameters of a trainer that is silent; set it to compact"


def _retention(topics: Topics, name: str, config: Mapping[str, str], needs: Needs) -> Broken:
    if name in (topics.model_updates, topics.erasures) and "delete" not in config.get("cleanup.policy", ""):
        return  # what is compacted is kept whatever its age
    two_windows = "two attribution windows with allowed_lateness_s, which are read again after a crash"
    must = {
        topics.behaviors: (DAY_MS, "a day: sequences are rebuilt from it where there is no state"),
        topics.impressions: (2 * needs.window_ms, two_windows),
        topics.scores: (2 * needs.window_ms, two_windows),
        topics.clicks: (needs.window_ms, "an attribution window with allowed_lateness_s"),
        topics.samples: (2 * needs.checkpoint_ms, "two checkpoint intervals, which are learned again after a crash"),
        topics.outcomes: (needs.monitor_ms, "a window of the monitor and the attribution window after it"),
    }
    should_ms = 30 * DAY_MS if name == topics.behaviors else DAY_MS
    value = config.get("retention.ms", "-1")
    kept_ms = int(value)
    if kept_ms >= 0:
        least_ms, reason = must.get(name, (0, ""))
        if kept_ms < least_ms:
            yield "retention.ms", "error", f"retention.ms={value} is less than {least_ms}: {reason}"
        elif kept_ms < should_ms:
            text = f"retention.ms={value} is less than {should_ms}: who is away for longer comes back to gaps"
            yield "retention.ms", "warning", text
    if int(size := config.get("retention.bytes", "-1")) >= 0:
        yield "retention.bytes", "warning", f"retention.bytes={size} removes records whatever their age; set it to -1"


def _stamp(topics: Topics, name: str, config: Mapping[str, str]) -> Broken:
    setting = "message.timestamp.type"
    value = config.get(setting, "LogAppendTime")
    if name in (topics.behaviors, topics.impressions, topics.clicks) and value != "LogAppendTime":
        text = f"{setting}={value} trusts the clocks of those who write; set it to LogAppendTime"
        yield setting, "error", text


def _size(topics: Topics, name: str, config: Mapping[str, str]) -> Broken:
    setting = "max.message.bytes"
    cut = (topics.model_updates, topics.dead_letters)
    if name in (topics.scores, topics.samples, topics.outcomes):
        least = RECORD_BYTES + _RECORD_OVERHEAD
    elif name in cut:
        least = _LEAST_CUT_BYTES
    else:
        return
    value = int(config.get(setting, RECORD_BYTES + _RECORD_OVERHEAD))
    if value < least:
        yield setting, "error", f"{setting}={value} is less than {least}: a larger record stops the job that writes it"
    elif name in cut and value < RECORD_BYTES:
        yield setting, "note", f"{setting}={value}: what is larger is cut"


def _replicas(config: Mapping[str, str], replicas: int) -> Broken:
    if config.get("unclean.leader.election.enable") == "true":
        setting = "unclean.leader.election.enable"
        yield setting, "warning", f"{setting}=true can lose acknowledged records; set it to false"
    in_sync = int(config.get("min.insync.replicas", "1"))
    if replicas > 1 and in_sync == 1:
        text = f"min.insync.replicas=1 of {replicas} replicas: acknowledged may be what one broker has"
        yield "min.insync.replicas", "note", text
    elif in_sync >= replicas > 1:
        text = f"min.insync.replicas={in_sync} of {replicas} replicas: nothing can be written while one broker is away"
        yield "min.insync.replicas", "note", text
