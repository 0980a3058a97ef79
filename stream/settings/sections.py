"""The sections of the settings, a class each: types, limits and defaults."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from stream.settings.guardrail import Guardrail
from stream.settings.limits import Count, Name, NotNegative, Positive


class TopicSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Names and sizes of the topics.

    Attributes:
        prefix: put before every topic's name, such as `shop-`; groups and directories that are not set have it too.
        partitions: of each topic keyed by user when `samstream topics create` makes them; fixed from then on.
        replication: replicas of each topic; -1 is the broker's default.
        on_missing_records: what workers, trainer, monitor and reports do when Kafka has removed records that they have
            not read: `stop`, or `skip` them and count what is missing.
    """

    prefix: str = ""
    partitions: Count = 8
    replication: Annotated[int, Meta(ge=-1)] = 1
    on_missing_records: Literal["stop", "skip"] = "stop"


class StateSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The state of the partitions: where it lies, how long a sequence is, and its snapshots.

    Attributes:
        directory: one RocksDB per partition lies here, on a local disk; workers of a machine share it. Unless set, it
            follows from `topics.prefix`.
        length: behaviours of a sequence.
        slack: behaviours kept beyond `length`, so that a sample still finds the sequence as it was. What was shown to a
            user who does more than `slack` before it is labelled is not learned.
        cache_mb: memory for hot users, MiB for each partition.
        snapshots: where copies of the partitions go: a directory or an fsspec URL; empty for none. A worker without
            the state of a partition restores the newest copy.
        snapshot_interval_s: how often each partition is copied.
        snapshots_kept: newest copies kept of each partition.
        erasure_grace_s: how long after a user was erased copies from before may stay: snapshots, and checkpoints of
            the trainer. They are removed then, however few there are; nothing is restored from them without erasing
            the user again.
    """

    directory: str = ""
    length: Annotated[int, Meta(ge=1, le=30_000)] = 1000
    slack: Annotated[int, Meta(ge=0)] = 256
    cache_mb: Count = 32
    snapshots: str = ""
    snapshot_interval_s: Positive = 300.0
    snapshots_kept: Count = 3
    erasure_grace_s: NotNegative = 86_400.0

    def path(self, number: int) -> Path:
        """Return the directory of a partition's state."""
        return Path(self.directory) / f"partition-{number:05d}"

    def standby_path(self, number: int) -> Path:
        """Return the directory of this machine's standby copy of a partition."""
        return Path(self.directory) / f"standby-{number:05d}"


class WorkerSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The worker: its consumer group, commit interval, windows and limits.

    Attributes:
        group: the consumer group; unless set, it follows from `topics.prefix`.
        commit_interval_s: how often state and offsets become durable.
        attribution_window_s: how long after its impression a click counts, in event time.
        allowed_lateness_s: how much longer a window stays open for records that come late, in event time.
        labels: when a shown item without a click is learned: `window`, when its attribution window closes; `early`,
            `label_wait_s` after its impression, and a click that comes later takes that back. Outcomes are counted when
            they are final, either way. Workers and trainer must have the same.
        label_wait_s: how long `early` waits for a click, in event time.
        idle_timeout_s: silence of a partition after which its event time follows the clock.
        max_topic_wait_s: how long a topic that lags and brings nothing is waited for.
        max_impression_age_s: older impressions are counted, not answered.
        max_future_s: how far `ts` may be ahead of the record's timestamp.
        max_past_s: how far `ts` of an impression or a click may be behind the record's timestamp: one year. Behaviours
            may be of any age. Whoever sends impressions of long ago raises it, up to 1e11.
        max_candidates: of one impression.
        unknown_features: what becomes of an event with features that `[features]` does not define: `ignore` them, or
            `refuse` the event.
        micro_batch: impressions of one arm that are scored together.
        model_wait_s: how long a starting worker waits for a trainer's models before it serves untrained ones.
        standbys: how many other workers may die at once with their partitions going to workers that keep a copy of
            them, a moment behind; 0 for no copies. A copy takes as much disk and memory as a partition.
        metrics: HOST:PORT of Prometheus metrics and the health check; empty for none.
        device: torch device of the models; `auto` is the GPU where there is one, else the CPU.
        threads: of torch.
    """

    group: str = ""
    commit_interval_s: Positive = 0.5
    attribution_window_s: Positive = 60.0
    allowed_lateness_s: NotNegative = 5.0
    labels: Literal["window", "early"] = "window"
    label_wait_s: NotNegative = 0.5
    idle_timeout_s: Positive = 5.0
    max_topic_wait_s: NotNegative = 2.0
    max_impression_age_s: Positive = 300.0
    max_future_s: NotNegative = 5.0
    max_past_s: Annotated[float, Meta(gt=0, le=1e11)] = 31_536_000.0
    max_candidates: Annotated[int, Meta(ge=1, le=5000)] = 1000
    unknown_features: Literal["ignore", "refuse"] = "ignore"
    micro_batch: Count = 16
    model_wait_s: NotNegative = 10.0
    standbys: Annotated[int, Meta(ge=0, le=16)] = 0
    metrics: str = ""
    device: str = "auto"
    threads: Count = 1


class TrainerSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The trainer: which arms it trains, where checkpoints lie, how often it publishes and saves.

    Attributes:
        arms: the arms that this trainer trains; all when empty.
        directory: where checkpoints and the trainer's own sequences lie, on a local disk; unless set, it follows from
            `topics.prefix`.
        update_interval_s: how often changed parameters are published.
        checkpoint_interval_s: how often a checkpoint is written, and all parameters are published.
        checkpoints_kept: newest checkpoints kept.
        batch_size: records of `samples` in one step.
        nice: by how much the trainer steps back behind other processes of its machine when processors are scarce
            (Unix): learning can wait, answers cannot.
        dedup_window: labelled items by which repeated samples are recognised.
        rank_timeout_s: how long one of several ranks may keep the others waiting, such as while it restores sequences;
            one that ends is noticed at once.
        progressive_log: folder of a log of every prediction that was made before learning; empty for none.
        metrics: HOST:PORT of Prometheus metrics and the health check; empty for none. Rank r uses PORT + r.
        device: as of the worker.
        threads: of torch.
    """

    arms: tuple[Name, ...] = ()
    directory: str = ""
    update_interval_s: Positive = 0.5
    checkpoint_interval_s: Positive = 30.0
    checkpoints_kept: Count = 3
    batch_size: Count = 32
    nice: Annotated[int, Meta(ge=0, le=19)] = 5
    dedup_window: Count = 1_000_000
    rank_timeout_s: Positive = 600.0
    progressive_log: str = ""
    metrics: str = ""
    device: str = "auto"
    threads: Count = 1


class MonitorSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The monitor: its group, its windows, and where tables lie and the page is served.

    Attributes:
        group: the consumer group; also the start of the names of the monitor's own topics. Unless set, it follows from
            `topics.prefix`.
        directory: where its tables lie; one for each monitor. Unless set, it follows from `topics.prefix`.
        web: HOST:PORT of the page; empty for none.
        window_s: length of the windows, in event time.
        dedup_s: how long after its end a window recognises repeated outcomes, in event time.
        retention_s: how long after its end a window is kept, in event time.
        write_interval_s: how often it counts and writes.
        session_timeout_s: how long the partitions of a monitor that was killed wait for another.
        metrics: HOST:PORT of Prometheus metrics and the health check; empty for none.
    """

    group: str = ""
    directory: str = ""
    web: str = "127.0.0.1:6066"
    window_s: Annotated[float, Meta(ge=1, le=86_400)] = 10.0
    dedup_s: Positive = 600.0
    retention_s: Positive = 3600.0
    write_interval_s: Positive = 1.0
    session_timeout_s: Annotated[float, Meta(ge=1, le=60)] = 10.0
    metrics: str = ""


class GatewaySettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The gateway: HTTP in front of the topics.

    Attributes:
        address: HOST:PORT to serve; port 0 takes a free one.
        keys: file with API keys, one a line; empty for none, which is allowed on a loopback address only.
        allow_anonymous: whether it may serve without keys beyond this machine, as behind a proxy that checks callers.
        certificate: file with the certificate chain for TLS, PEM; empty for plain HTTP.
        certificate_key: file with its private key, PEM; empty where `certificate` holds it.
        deadline_s: how long a request waits for its score.
        on_timeout: what it gets then: the `candidates` in their own order, or by `popularity`, how high this gateway's
            newest answers had them, both marked as such; or an `error` (504).
        max_in_flight: requests that may wait at a time; further ones are answered 429.
        max_unacknowledged: records that Kafka may not have acknowledged yet; with more, writes are answered 503.
        max_body_bytes: larger bodies are answered 413.
        max_lines: behaviours of one bulk request.
        remember_s: how long a request that is repeated gets the answer of before.
        remembered: answers that are remembered at most.
        pages: folder of files that it serves under `/pages/`, to anybody; empty for none.
        peers: addresses (http://HOST:PORT) of all gateways that share the users, the same list in the same order for
            each; a gateway alone, or several that know nothing of each other, have none.
        peer: which of `peers` this one is, from 0.
        metrics: HOST:PORT of Prometheus metrics and the health check; empty for none.
    """

    address: str = "127.0.0.1:8080"
    keys: str = ""
    allow_anonymous: bool = False
    certificate: str = ""
    certificate_key: str = ""
    deadline_s: Annotated[float, Meta(gt=0, le=60)] = 0.5
    on_timeout: Literal["candidates", "popularity", "error"] = "candidates"
    max_in_flight: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    max_unacknowledged: Annotated[int, Meta(ge=1, le=50_000)] = 10_000
    max_body_bytes: Annotated[int, Meta(ge=1000, le=2**26)] = 1_000_000
    max_lines: Annotated[int, Meta(ge=1, le=50_000)] = 5000
    remember_s: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    remembered: Count = 10_000
    pages: str = ""
    peers: tuple[str, ...] = ()
    peer: Annotated[int, Meta(ge=0)] = 0
    metrics: str = ""


class StatisticsSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the stream knows of items and categories: decayed counts, for the arms whose model has `statistics`.

    Attributes:
        max_rows: items, and categories, that are counted; further ones count as never seen.
        retention_s: how long after its last behaviour an item or a category is kept: two years.
    """

    max_rows: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 2**22
    retention_s: Positive = 63_072_000.0


class ExperimentSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the verdict on the arms rests on besides their shares; to be chosen before the data.

    Attributes:
        name: with `salt`, which experiment this is: another name starts over.
        minimum_effect: the smallest relative lift that is worth finding; 0.05 is 5% more clicks.
        alpha: the probability of naming a winner among arms that are alike, over all looks.
        guardrails: metrics that must not get worse, which the monitor's page shows (see `docs/experiments.md`).
        since: when the experiment began, for the guardrails: impressions before then do not count. All that Kafka has
            unless set.
    """

    name: Name = "experiment"
    minimum_effect: Annotated[float, Meta(gt=0, le=10)] = 0.05
    alpha: Annotated[float, Meta(gt=0, le=0.5)] = 0.05
    guardrails: tuple[Guardrail, ...] = ()
    since: Annotated[datetime, Meta(tz=True)] | None = None
