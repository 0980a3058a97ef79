"""One frozen, typed configuration: what can be set (`settings`, `sections`), and where it is read (`reading`)."""

from stream.settings.arms import ArmSettings
from stream.settings.bandit import BanditSettings
from stream.settings.guardrail import Guardrail
from stream.settings.kafka_properties import RESERVED, Properties
from stream.settings.limits import Count, Name, NotNegative, Positive
from stream.settings.ramp import RampStep, Stage, stages
from stream.settings.reading import convert, load
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
from stream.settings.settings import KEPT_DELTAS, Settings

__all__ = [
    "KEPT_DELTAS",
    "RESERVED",
    "ArmSettings",
    "BanditSettings",
    "Count",
    "ExperimentSettings",
    "GatewaySettings",
    "Guardrail",
    "MonitorSettings",
    "Name",
    "NotNegative",
    "Positive",
    "Properties",
    "RampStep",
    "Settings",
    "Stage",
    "StateSettings",
    "StatisticsSettings",
    "TopicSettings",
    "TrainerSettings",
    "WorkerSettings",
    "convert",
    "load",
    "stages",
]
