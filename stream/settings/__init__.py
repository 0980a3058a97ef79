"""One frozen, typed configuration: what can be set (`sections`), and where it is read from (`reading`)."""

from stream.settings.bandit import BanditSettings
from stream.settings.guardrail import Guardrail
from stream.settings.ramp import RampStep, Stage, stages
from stream.settings.reading import convert, load
from stream.settings.sections import (
    KEPT_DELTAS,
    RESERVED,
    ArmSettings,
    ExperimentSettings,
    GatewaySettings,
    MonitorSettings,
    Properties,
    Settings,
    StateSettings,
    StatisticsSettings,
    TopicSettings,
    TrainerSettings,
    WorkerSettings,
)
from stream.settings.types import Count, Name, NotNegative, Positive

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
