"""One frozen, typed configuration: a TOML (or JSON) file, then the environment, then flags; the later wins.

Environment variables are `SAMSTREAM_<SECTION>__<KEY>` (for example `SAMSTREAM_WORKER__COMMIT_INTERVAL_S=0.2`). Section
`kafka` takes any librdkafka property; in the environment its dots are underscores
(`SAMSTREAM_KAFKA__BOOTSTRAP_SERVERS=broker:9092`). What can be a password is never said: of section `kafka`, neither
`repr` nor an error shows a value. Flags are `--set section.key=value`. Unknown keys are errors.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from model.spec import ModelSpec, OptimSpec, preset
from stream.errors import SettingsError

_KEY = re.compile(r"[\w.]*")

Positive = Annotated[float, Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, Meta(ge=0, le=1e9)]
Count = Annotated[int, Meta(ge=1)]
RESERVED = frozenset(
    {
        "group.id",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "auto.offset.reset",
        "isolation.level",
        "partition.assignment.strategy",
        "group.protocol",
        "enable.idempotence",
        "partitioner",
    }
)
"""librdkafka properties that are not for the user to set."""

KEPT_DELTAS = 4096
"""Distinct Kafka keys of an arm's deltas: what compaction leaves of them."""


class Properties(dict[str, str]):
    """librdkafka properties; `repr` shows the address alone, since any other value can be a secret."""

    def __repr__(self) -> str:
        shown = {key: value if key == "bootstrap.servers" else "…" for key, value in self.items()}
        return f"Properties({shown})"


Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]


class TopicSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Names and sizes of the topics: `prefix` before each name; partitions of the topics keyed by user.

    A `replication` of -1 is the broker's default.
    """

    prefix: str = ""
    partitions: Count = 8
    replication: Annotated[int, Meta(ge=-1)] = 1


class StateSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the partitions lie, how long a sequence is, and how much memory hot users may take.

    `slack` is how many behaviours beyond `length` are kept, so that a pending impression still finds the sequence as it
    was: a user with more than `slack` behaviours within the attribution window loses the oldest ones in the sample.
    `snapshots` is a directory or an fsspec URL; where it is set, each partition is copied there every
    `snapshot_interval_s`, the newest `snapshots_kept` stay, and a worker without the state of a partition begins with
    the newest. `gaps` says what to do when Kafka has removed records that the state has not read: stop, or skip them.
    """

    directory: str = ".samstream/state"
    length: Annotated[int, Meta(ge=1, le=30_000)] = 1000
    slack: Annotated[int, Meta(ge=0)] = 256
    cache_mb: Count = 32
    snapshots: str = ""
    snapshot_interval_s: Positive = 300.0
    snapshots_kept: Count = 3
    gaps: Literal["stop", "skip"] = "stop"

    def path(self, number: int) -> Path:
        """Return the directory of a partition's state."""
        return Path(self.directory) / f"partition-{number:05d}"


class WorkerSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The worker's consumer group, commit interval, windows and limits (seconds unless the name says otherwise).

    `metrics` is the HOST:PORT where Prometheus metrics and a health check are served; nowhere when empty.
    """

    group: str = "samstream-worker"
    commit_interval_s: Positive = 0.5
    attribution_window_s: Positive = 60.0
    lateness_s: NotNegative = 5.0
    idle_s: Positive = 5.0
    align_s: NotNegative = 2.0
    max_impression_age_s: Positive = 300.0
    max_future_s: NotNegative = 5.0
    max_candidates: Annotated[int, Meta(ge=1, le=5000)] = 1000
    micro_batch: Count = 16
    model_wait_s: NotNegative = 10.0
    metrics: str = ""
    device: str = "auto"
    threads: Count = 1


class TrainerSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The trainer: which arms it teaches (all when empty), where checkpoints lie, how often it publishes and saves.

    `metrics` is as of the worker. `nice` is by how much the trainer steps back behind other processes of its machine
    when processors are scarce (Unix): learning can wait, answers cannot.
    """

    arms: tuple[Name, ...] = ()
    directory: str = ".samstream/checkpoints"
    update_interval_s: Positive = 0.5
    checkpoint_interval_s: Positive = 30.0
    keep: Count = 3
    batch: Count = 32
    nice: Annotated[int, Meta(ge=0, le=19)] = 5
    remember: Count = 1_000_000
    progressive_log: str = ""
    metrics: str = ""
    device: str = "auto"
    threads: Count = 1


class MonitorSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The monitor: its group, the length of its windows, and where tables lie and the page is served.

    Times are in seconds. After its end, a window remembers what it has counted for `remember_s` and is kept for
    `keep_s`, in event time; both are at least as long as outcomes may take. What has come is counted and written every
    `write_interval_s`. `session_timeout_s` is how long the partitions of a monitor that was killed wait for another.
    `web` is HOST:PORT; nothing is served when it is empty.
    """

    group: str = "samstream-monitor"
    directory: str = ".samstream/monitor"
    web: str = "127.0.0.1:6066"
    window_s: Annotated[float, Meta(ge=1, le=86_400)] = 10.0
    remember_s: Positive = 600.0
    keep_s: Positive = 3600.0
    write_interval_s: Positive = 1.0
    session_timeout_s: Annotated[float, Meta(ge=1, le=60)] = 10.0


class ArmSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One arm of the experiment.

    `preset` names a model (`sam`, `sam-paper`, `din-50`, `counts`, …); `model` overrides single fields of it. An arm
    with `learn = false` keeps the parameters it starts from. `learn_from` says whose samples it learns from: those of
    its own users (in interleaved requests: the items that it placed), or all.

    `interleave` names two other arms: users of this one get lists that both have drafted in turn, so that each user
    compares them (see `stream.experiment.interleaving`). Such an arm has no model of its own.
    """

    name: Name
    share: NotNegative = 1.0
    preset: str = "sam"
    model: dict[str, Any] = {}
    learn: bool = True
    learn_from: Literal["own", "all"] = "own"
    optim: OptimSpec = OptimSpec()
    interleave: tuple[Name, ...] = ()

    def spec(self) -> ModelSpec:
        """Return the model this arm runs.

        Raises:
            SettingsError: for an unknown preset or field, and for an arm that interleaves others.
        """
        if self.interleave:
            raise SettingsError(f"arm {self.name!r} interleaves {' and '.join(self.interleave)}: it has no model")
        try:
            return msgspec.convert(msgspec.to_builtins(preset(self.preset)) | self.model, ModelSpec, strict=False)
        except (ValueError, msgspec.ValidationError) as error:
            raise SettingsError(f"arm {self.name!r}: {error}") from None


class ExperimentSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a verdict on the arms rests on besides their shares; to be chosen before the data.

    `name` is for people, and with `salt` it says which experiment this is: another one begins to count anew. `alpha` is
    the probability of naming a winner among arms that are alike, over all looks; `minimum_effect` is the smallest lift
    that is worth finding, 0.05 being 5% more clicks.
    """

    name: Name = "experiment"
    minimum_effect: Annotated[float, Meta(gt=0, le=10)] = 0.05
    alpha: Annotated[float, Meta(gt=0, le=0.5)] = 0.05


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be set. `kafka` holds librdkafka properties; `seed` starts the parameters of every arm."""

    kafka: dict[str, str] = field(default_factory=lambda: {"bootstrap.servers": "localhost:9092"})
    topics: TopicSettings = TopicSettings()
    state: StateSettings = StateSettings()
    worker: WorkerSettings = WorkerSettings()
    trainer: TrainerSettings = TrainerSettings()
    monitor: MonitorSettings = MonitorSettings()
    experiment: ExperimentSettings = ExperimentSettings()
    arms: tuple[ArmSettings, ...] = (ArmSettings(name="sam"),)
    salt: str = "samstream"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse arms that cannot be run side by side.

        Raises:
            SettingsError: for no arms, two of one name, no share at all, a trainer's arm that is not there, or an
                interleaved one that is not, or has no model.
        """
        msgspec.structs.force_setattr(self, "kafka", Properties(self.kafka))
        if taken := RESERVED & self.kafka.keys():
            raise SettingsError(
                f"kafka.{', kafka.'.join(sorted(taken))}: samstream's promises rest on what it sets here"
            )
        if self.trainer.checkpoint_interval_s / self.trainer.update_interval_s > KEPT_DELTAS / 2:
            raise SettingsError(
                f"more than {KEPT_DELTAS // 2} updates between two checkpoints: compaction would lose some"
            )
        names, models = [arm.name for arm in self.arms], [arm.name for arm in self.models]
        if not names or len(set(names)) < len(names):
            raise SettingsError(f"arms need distinct names and at least one, got {names}")
        if sum(arm.share for arm in self.arms) <= 0:
            raise SettingsError("no arm has a share of the users: give at least one `share` above 0")
        if unknown := set(self.trainer.arms) - set(models):
            raise SettingsError(f"trainer.arms names {sorted(unknown)}; there are {models}")
        for arm in self.arms:
            if arm.interleave:
                _check_interleaved(arm, models)
        for arm in self.models:
            if arm.spec().length > self.state.length:
                raise SettingsError(
                    f"arm {arm.name!r} looks at {arm.spec().length} behaviours, state.length keeps {self.state.length}"
                )

    @property
    def models(self) -> tuple[ArmSettings, ...]:
        """The arms that have a model of their own: all but those that interleave others."""
        return tuple(arm for arm in self.arms if not arm.interleave)


def _check_interleaved(arm: ArmSettings, models: Sequence[str]) -> None:
    if len(arm.interleave) != 2 or arm.interleave[0] == arm.interleave[1]:
        raise SettingsError(f"arm {arm.name!r} interleaves {list(arm.interleave)}: name two different arms")
    if unknown := [name for name in arm.interleave if name not in models]:
        raise SettingsError(f"arm {arm.name!r} interleaves {unknown}; arms with a model are {list(models)}")
    plain = ArmSettings(name=arm.name, share=arm.share, interleave=arm.interleave)
    if extra := [field for field in ArmSettings.__struct_fields__ if getattr(arm, field) != getattr(plain, field)]:
        raise SettingsError(f"arm {arm.name!r} interleaves others and has no model of its own: drop {', '.join(extra)}")


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings: file, then environment, then `section.key=value` overrides.

    Args:
        path: the file, TOML or JSON; none when None.
        environ: the environment.
        overrides: `section.key=value`, values as in TOML.
        defaults: what a job prefers to the general defaults; a section of the file changes single keys of it.

    Raises:
        SettingsError: for a file that cannot be read, an unknown key or a value of the wrong type; says where.
    """
    merged: dict[str, Any] = {
        section: dict(value) if isinstance(value, Mapping) else value for section, value in (defaults or {}).items()
    }
    for section, value in (_read(path) if path else {}).items():
        preferred = merged.get(section)
        merged[section] = {**preferred, **value} if isinstance(preferred, dict) and isinstance(value, dict) else value
    for name, value in environ.items():
        if name.startswith("SAMSTREAM_") and "__" in name:
            section, key = name.removeprefix("SAMSTREAM_").lower().split("__", 1)
            _put(merged, [section, key.replace("_", ".") if section == "kafka" else key], value, name)
    for override in overrides:
        target, equals, value = override.partition("=")
        section, dot, key = target.partition(".")
        if not equals:
            raise SettingsError(f"--set {_KEY.match(override)[0]}: write it as section.key=value")  # type: ignore[index]
        _put(merged, [section, key] if dot else [section], value, f"--set {target}")
    if isinstance(kafka := merged.get("kafka"), dict):
        merged["kafka"] = dict(_properties(kafka))
    return convert(merged)


def convert(values: Mapping[str, Any]) -> Settings:
    """Check plain values and return them as `Settings`.

    Raises:
        SettingsError: for an unknown key or a value of the wrong type or range.
    """
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        # msgspec wraps what __post_init__ raises; the message is ours either way.
        raise SettingsError(f"settings: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: holds {type(values).__name__}, not sections with keys")
    return values


def _put(values: dict[str, Any], keys: list[str], text: str, origin: str) -> None:
    inner = values
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"{origin}: {key} is a value, not a section")
    inner[keys[-1]] = text if keys[0] == "kafka" else _parse(text)


def _parse(text: str) -> Any:
    """Read a TOML value; text that is none is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _properties(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield librdkafka's properties; in TOML, a key with dots that is not quoted has become tables."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _properties(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value).lower() if isinstance(value, bool) else str(value)
