"""All settings together: what they mean for each other, and what cannot go together."""

from typing import Literal

import msgspec
from msgspec import Struct, field

from model.spec import ModelSpec, reads_features
from state.feature import Feature
from state.feature_layout import FeatureLayout
from stream.errors import ExperimentError, SettingsError, TopicError
from stream.runtime.addresses import host_and_port
from stream.schema.features import FeatureDefinition, FeatureSchema
from stream.schema.topics import Topics
from stream.settings.arms import ArmSettings, check_interleaved
from stream.settings.bandit import BanditSettings, check_bandit
from stream.settings.features import FeatureName, check_features, layout_of
from stream.settings.kafka_properties import RESERVED, Properties
from stream.settings.names import default_names
from stream.settings.ramp import RampStep, Stage, stages
from stream.settings.sections import (
    ExperimentSettings,
    GatewaySettings,
    MonitorSettings,
    StateSettings,
    StatisticsSettings,
    TopicSettings,
    TrainerSettings,
    WorkerSettings,
)

KEPT_DELTAS = 4096
"""Distinct Kafka keys of an arm's deltas: what compaction leaves of them."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be set.

    Attributes:
        kafka: librdkafka properties.
        topics: names and sizes of the topics.
        state: the state of the partitions.
        worker: the worker.
        trainer: the trainer.
        monitor: the monitor.
        gateway: the gateway.
        statistics: decayed counts of items and categories.
        experiment: what the verdict rests on.
        bandit: shares that follow the clicks.
        features: features of callers, by name; workers and trainer must have the same.
        arms: the arms; workers and trainer must have the same.
        ramp: shares by schedule: steps in the order of time; all workers must have the same.
        salt: with the user's id, decides the arm.
        seed: of the initial parameters of every arm; workers and trainer must have the same.
    """

    kafka: dict[str, str] = field(default_factory=lambda: {"bootstrap.servers": "localhost:9092"})
    topics: TopicSettings = TopicSettings()
    state: StateSettings = StateSettings()
    worker: WorkerSettings = WorkerSettings()
    trainer: TrainerSettings = TrainerSettings()
    monitor: MonitorSettings = MonitorSettings()
    gateway: GatewaySettings = GatewaySettings()
    statistics: StatisticsSettings = StatisticsSettings()
    experiment: ExperimentSettings = ExperimentSettings()
    bandit: BanditSettings = BanditSettings()
    features: dict[FeatureName, FeatureDefinition] = {}
    arms: tuple[ArmSettings, ...] = (ArmSettings(name="sam"),)
    ramp: tuple[RampStep, ...] = ()
    salt: str = "samstream"
    seed: int = 0

    def __post_init__(self) -> None:
        """Fill in the names that follow from the prefix; refuse arms that cannot be run side by side.

        Raises:
            SettingsError: for a prefix that Kafka does not take, no arms, two of one name, no share at all, a trainer's
                arm that is not there, or an interleaved one that is not, or has no model, or a ramp or bandit that
                cannot be.
        """
        msgspec.structs.force_setattr(self, "kafka", Properties(self.kafka))
        try:
            Topics(self.topics.prefix)
        except TopicError as error:
            raise SettingsError(str(error)) from None
        for section, defaults in default_names(self.topics.prefix).items():
            given = getattr(self, section)
            missing = {key: name for key, name in defaults.items() if not getattr(given, key)}
            msgspec.structs.force_setattr(self, section, msgspec.structs.replace(given, **missing))
        if taken := RESERVED & self.kafka.keys():
            raise SettingsError(
                f"kafka.{', kafka.'.join(sorted(taken))}: samstream's promises rest on what it sets here"
            )
        if self.trainer.checkpoint_interval_s / self.trainer.update_interval_s > KEPT_DELTAS / 2:
            raise SettingsError(
                f"more than {KEPT_DELTAS // 2} updates between two checkpoints: compaction would lose some"
            )
        _check_gateway(self.gateway)
        check_features(self.features, candidates=self.worker.max_candidates)
        names, models = [arm.name for arm in self.arms], [arm.name for arm in self.models]
        if not names or len(set(names)) < len(names):
            raise SettingsError(f"arms need distinct names and at least one, got {names}")
        if sum(arm.share for arm in self.arms) <= 0:
            raise SettingsError("no arm has a share of the users: give at least one `share` above 0")
        stages({arm.name: arm.share for arm in self.arms}, self.ramp)
        check_bandit(self.bandit, self.arms, ramp=bool(self.ramp), max_future_s=self.worker.max_future_s)
        for guardrail in self.experiment.guardrails:
            try:
                guardrail.check(tuple(models))
            except ExperimentError as error:
                raise SettingsError(f"experiment: {error}") from None
        if unknown := set(self.trainer.arms) - set(models):
            raise SettingsError(f"trainer.arms names {sorted(unknown)}; there are {models}")
        for arm in self.arms:
            if "features" in arm.model:
                raise SettingsError(f"arm {arm.name!r}: features are no field of its model: give the arm `features`")
            named = () if arm.features == "all" else arm.features
            if unknown_features := sorted(set(named) - self.features.keys()):
                raise SettingsError(
                    f"arm {arm.name!r} reads feature {unknown_features[0]!r}; there are {sorted(self.features)}"
                )
            if arm.interleave:
                check_interleaved(arm, models)
        for arm in self.models:
            if arm.spec().length > self.state.length:
                raise SettingsError(
                    f"arm {arm.name!r} looks at {arm.spec().length} behaviours, state.length keeps {self.state.length}"
                )
        if len(counted := {arm.spec().statistics for arm in self.models} - {()}) > 1:
            raise SettingsError(
                f"arms read statistics of different half-lives ({', '.join(map(str, sorted(counted)))} s): they are"
                " counted once, so give all arms the same model.statistics, or none"
            )

    def spec(self, arm: ArmSettings) -> ModelSpec:
        """Return the model an arm runs, with the features that it reads.

        Raises:
            SettingsError: as `ArmSettings.spec`.
        """
        spec = arm.spec()
        if not reads_features(spec):
            return spec
        read = self.features if arm.features == "all" else arm.features
        features: tuple[Feature, ...] = tuple(self.features[name].feature(name) for name in sorted(read))
        return msgspec.structs.replace(spec, features=features)

    @property
    def feature_layout(self) -> FeatureLayout:
        """How features lie in records."""
        return layout_of(self.features)

    def feature_schema(self) -> FeatureSchema:
        """Return what checks and packs features; it counts what is missing."""
        return FeatureSchema(self.features, refuse_unknown=self.worker.unknown_features == "refuse")

    @property
    def half_lives_s(self) -> tuple[float, ...]:
        """Half-lives (s) of the statistics that arms read; none where no arm reads any."""
        return max((arm.spec().statistics for arm in self.models), default=())

    @property
    def statistics_length(self) -> int:
        """Behaviours of a user of which statistics tell the share: what the shortest arm reads that reads any."""
        return min((arm.spec().length for arm in self.models if arm.spec().statistics), default=0)

    def erasure_group(self, job: Literal["worker", "trainer", "monitor"]) -> str:
        """Return the consumer group by whose committed offsets a job says which erasures it has done."""
        own = {"worker": self.worker.group, "trainer": "", "monitor": self.monitor.group}[job]
        return f"{own or f'{self.topics.prefix}samstream-{job}'}-erasures"

    @property
    def stages(self) -> list[Stage]:
        """The times between the ramp's steps, with the shares in force; one without a ramp."""
        return stages({arm.name: arm.share for arm in self.arms}, self.ramp)

    def stage(self, ts: float) -> Stage:
        """Return the stage that holds a time, ms since the epoch."""
        return next(stage for stage in self.stages if stage.holds(ts))

    def at(self, ts: float) -> "Settings":
        """Return the settings with the shares in force at a time (ms since the epoch), and no ramp."""
        stage = self.stage(ts)
        arms = tuple(msgspec.structs.replace(arm, share=stage.shares[arm.name]) for arm in self.arms)
        return msgspec.structs.replace(self, arms=arms, ramp=())

    @property
    def models(self) -> tuple[ArmSettings, ...]:
        """The arms that have a model of their own: all but those that interleave others."""
        return tuple(arm for arm in self.arms if not arm.interleave)


def _check_gateway(gateway: GatewaySettings) -> None:
    try:
        host_and_port(gateway.address)
    except ValueError as error:
        raise SettingsError(f"gateway.address {gateway.address!r}: {error}; write it as HOST:PORT") from None
    if gateway.certificate_key and not gateway.certificate:
        raise SettingsError("gateway.certificate_key is given without gateway.certificate")
    if gateway.peers and gateway.peer >= len(gateway.peers):
        raise SettingsError(f"gateway.peer={gateway.peer}: gateway.peers names {len(gateway.peers)}, counted from 0")
    if wrong := [peer for peer in gateway.peers if not peer.startswith(("http://", "https://"))]:
        raise SettingsError(f"gateway.peers names {wrong[0]!r}: write it as http://HOST:PORT or https://HOST:PORT")
