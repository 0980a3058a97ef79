"""From what was seen to what a report says: results per arm, comparisons, windows, and the machine it ran on."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.metrics import auc, normalised_entropy
from stream.experiment.statistics.intervals import clustered_rate, percentiles
from stream.experiment.user_sums import UserSums
from stream.report.formatting import learning_words, model_words
from stream.report.schema import ArmPlan, ArmResult, ArmTrace, Machine, Percentiles, ReplayTrace
from stream.report.series import missed
from stream.settings import ArmSettings

_LIBRARIES = ("samstream", "torch", "numpy", "confluent-kafka", "rocksdict")

Arrays = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]


def arm_result(trace: ArmTrace) -> ArmResult:
    """Add up what happened to an arm of a simulation; rates are NaN when it showed nothing."""
    shown = sum(trace.shown)
    ctr = clustered_rate(*columns(trace))

    def per_item(values: list[float]) -> float:
        return sum(values) / shown if shown and values else float("nan")

    return ArmResult(
        users=len(set(trace.users)),
        impressions=len(trace.at),
        shown=shown,
        clicks=sum(trace.clicks),
        ctr=ctr.value,
        ctr_low=ctr.low,
        ctr_high=ctr.high,
        log_loss=per_item(trace.losses),
        log_loss_floor=per_item(trace.floor),
        ctr_best=per_item(trace.best),
        ctr_random=per_item(trace.random),
        regret=mean(missed(trace)),
        latency_ms=spread(trace.latency),
        cpu_s=mean(trace.cpu),
        timed=len(trace.latency),
        epoch=trace.epoch,
        version=trace.version,
    )


def user_sums(traces: Mapping[str, ArmTrace], before: UserSums | None = None) -> UserSums:
    """Return what simulated users did, with their time before if there was one; times in ms since the start."""
    sums = UserSums()
    if before is not None:
        sums.merge(before)
    for arm, trace in traces.items():
        times = 1000 * np.array(trace.at)
        sums.extend(arm, [str(user) for user in trace.users], trace.shown, trace.clicks, times)
    return sums


def plan_of(arms: Sequence[ArmSettings], seen: Iterable[str] = ()) -> dict[str, ArmPlan]:
    """Return what arms are, as a report says it; of those that were only seen, nothing is known."""
    total = sum(arm.share for arm in arms)
    planned = {arm.name: _planned(arm, arm.share / total) for arm in arms}
    return planned | {name: ArmPlan(float("nan"), "unknown", 0, "unknown") for name in seen if name not in planned}


def _planned(arm: ArmSettings, share: float) -> ArmPlan:
    if arm.interleave:
        return ArmPlan(share, ", ".join(arm.interleave) + " in turn", 0, "from what each placed")
    return ArmPlan(share, model_words(arm), arm.spec().length, learning_words(arm))


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN of nothing."""
    return sum(values) / len(values) if len(values) else float("nan")


def spread(values: npt.ArrayLike) -> Percentiles:
    """Return median and 99th percentile."""
    return Percentiles(*percentiles(values, (50, 99)))


def replay_trace(labels: npt.NDArray[np.uint8], predictions: npt.NDArray[np.float32], windows: int = 25) -> ReplayTrace:
    """Cut (n,) labels and predictions, in the order of learning, into equal windows and judge each."""
    edges = np.linspace(0, len(labels), windows + 1).astype(int)
    parts = [
        (labels[low:high].astype(np.float64), predictions[low:high]) for low, high in pairwise(edges) if high > low
    ]
    return ReplayTrace(
        samples=[int(high) for low, high in pairwise(edges) if high > low],
        auc=[auc(*part) for part in parts],
        ne=[normalised_entropy(*part) for part in parts],
    )


def this_machine(device: str = "cpu") -> Machine:
    """Describe the machine this runs on."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gb=round(memory, 1),
        python=platform.python_version(),
        versions=versions,
        device=device,
    )


def this_run(command: str) -> dict[str, str]:
    """Say what was run and when (UTC), for whoever finds the figures later."""
    return {"date": datetime.now(UTC).date().isoformat(), "command": command}


def columns(trace: ArmTrace) -> Arrays:
    """Return users, shown and clicks of a trace as arrays."""
    users, shown, clicks = (np.asarray(each, dtype=np.int64) for each in (trace.users, trace.shown, trace.clicks))
    return users, shown, clicks


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
