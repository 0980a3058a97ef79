"""One frozen, typed configuration: what can be set (`sections`), and where it is read from (`reading`)."""

from stream.settings.ramp import RampStep, Stage, stages
from stream.settings.reading import convert, load
from stream.settings.registry import RegistrySettings
from stream.settings.sections import (
    KEPT_DELTAS,
    RESERVED,
    ArmSettings,
    Count,
    ExperimentSettings,
    GatewaySettings,
    MonitorSettings,
    Name,
    NotNegative,
    Positive,
    Properties,
    Settings,
    StateSettings,
    StatisticsSettings,
    TopicSettings,
    TrainerSettings,
    WorkerSettings,
)

__all__ = [
    "KEPT_DELTAS",
    "RESERVED",
    "ArmSettings",
    "Count",
    "ExperimentSettings",
    "GatewaySettings",
    "MonitorSettings",
    "Name",
    "NotNegative",
    "Positive",
    "Properties",
    "RampStep",
    "RegistrySettings",
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
