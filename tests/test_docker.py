"""What lies in `docker/` fits together and fits the code; Docker itself is not needed."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from stream.bandit.metrics import BanditMetrics
from stream.gateway.metrics import GatewayMetrics
from stream.monitor.metrics import MonitorMetrics
from stream.runtime.health import Health
from stream.settings import load
from stream.trainer.metrics import TrainerMetrics
from stream.worker.metrics import WorkerMetrics

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
DASHBOARD = DOCKER / "grafana/dashboards/samstream.json"
ALERTS = DOCKER / "helm/samstream/files/alerts.yml"
ALERTS_TEST = ROOT / "tests/alerts.yaml"
NAME = re.compile(r"\bsamstream_[a-z0-9_]+")


def read(path: Path) -> Any:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install -e '.[test]'")
    return yaml.safe_load(path.read_text())


def compose() -> dict[str, Any]:
    found: dict[str, Any] = read(DOCKER / "compose.yaml")
    return found


def environment(service: dict[str, Any], outside: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a service gets; a name without a value takes that from outside, if there is one."""
    outside = outside or {}
    given = service.get("environment", {}).items()
    taken = {name: outside.get(name) if value is None else value for name, value in given}
    return {
        name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)) for name, value in taken.items() if value is not None
    }


def expressions() -> list[str]:
    return [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]


def exported() -> set[str]:
    """Return the names of all that worker, trainer, monitor, gateway and bandit serve."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    names: set[str] = set()
    for role, metrics in (
        ("worker", WorkerMetrics),
        ("trainer", TrainerMetrics),
        ("monitor", MonitorMetrics),
        ("gateway", GatewayMetrics),
        ("bandit", BanditMetrics),
    ):
        registry = CollectorRegistry()
        metrics(registry)
        Health(role, registry)
        for metric in registry.collect():
            names |= {metric.name + suffix for suffix in suffixes.get(metric.type, ("",))}
    return names


def test_every_metric_of_the_dashboard_is_served() -> None:
    used = {name for expression in expressions() for name in NAME.findall(expression)}
    assert len(used) > 15
    assert used <= exported(), used - exported()


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_every_metric_that_the_docs_name_is_served(path: Path) -> None:
    served = exported()
    histograms = {name.removesuffix("_bucket") for name in served if name.endswith("_bucket")}
    used = set(NAME.findall(path.read_text()))
    assert used <= served | histograms, used - served - histograms


def test_all_that_a_process_must_tell_is_on_the_dashboard() -> None:
    """Lag, age of the progress, commit time, batches, queues, dead letters, refusals, model, recovery."""
    shown = " ".join(expressions())
    for name in (
        "healthy",
        "lag_records",
        "progress_age_seconds",
        "commit_seconds",
        "batch_records",
        "buffered_records",
        "unacknowledged_records",
        "answer_seconds_bucket",
        "dead_letters_total",
        "updates_refused_total",
        "steps_skipped_total",
        "model_version",
        "model_age_seconds",
        "restored_ratio",
        "replay_left_records",
        "progressive",
        "monitor_uncounted",
        "gateway_answers_total",
        "gateway_in_flight",
        "erasures_lag_records",
        "bandit_share",
    ):
        assert f"samstream_{name}" in shown


def alerts() -> list[dict[str, Any]]:
    [group] = read(ALERTS)["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def test_every_metric_of_the_alerts_is_served_and_every_alert_is_tried() -> None:
    used = {name for rule in alerts() for name in NAME.findall(rule["expr"])}
    assert len(used) > 10
    assert used <= exported(), used - exported()
    tried: dict[str, set[bool]] = {rule["alert"]: set() for rule in alerts()}
    for test in read(ALERTS_TEST)["tests"]:
        for each in test["alert_rule_test"]:
            tried[each["alertname"]].add(bool(each.get("exp_alerts")))
    assert [name for name, fires in tried.items() if True not in fires] == []


@pytest.mark.long
def test_alerts_fire_on_what_they_tell_of_and_on_nothing_else() -> None:
    if not (promtool := shutil.which("promtool")):
        pytest.skip("promtool is not installed: it comes with Prometheus, Debian's package too")
    for words in (["check", "rules", str(ALERTS)], ["test", "rules", str(ALERTS_TEST)]):
        done = subprocess.run([promtool, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_panels_of_the_dashboard_have_ids_places_and_a_source_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    [source] = read(DOCKER / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    for panel in panels:
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": source["type"], "uid": source["uid"]}


def test_the_settings_of_every_service_are_settings() -> None:
    services = compose()["services"]
    for name in ("topics", "worker", "trainer", "monitor", "gateway", "bandit"):
        given = environment(services[name])
        ours = {key for key in given if key.startswith("SAMSTREAM_")}
        assert ours
        settings = load(environ=given)
        assert settings.kafka["bootstrap.servers"] == "kafka:19092"
        assert settings.worker.metrics == settings.trainer.metrics == settings.monitor.metrics == "0.0.0.0:9100"
        assert settings.gateway.metrics == settings.bandit.metrics == "0.0.0.0:9100"
        assert not settings.bandit.on


def test_the_bandit_runs_only_when_asked_for_with_settings_that_all_jobs_share() -> None:
    services = compose()["services"]
    assert {name: each["profiles"] for name, each in services.items() if "profiles" in each} == {"bandit": ["bandit"]}
    assert services["bandit"]["command"] == ["bandit"]
    [command] = re.findall(r"SAMSTREAM_BANDIT__EXPLORE=.*?\bup\b", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    assert "--profile bandit" in command
    outside = dict(word.split("=", 1) for word in shlex.split(command) if word.startswith("SAMSTREAM_"))
    found = [
        load(environ=environment(services[name], outside))
        for name in ("worker", "trainer", "monitor", "gateway", "bandit")
    ]
    assert all(each == found[0] for each in found)
    assert found[0].bandit.on
    assert len(found[0].arms) == 2


def test_images_are_pinned() -> None:
    for name, service in compose()["services"].items():
        if "build" not in service:
            _, _, tag = service["image"].partition(":")
            assert re.search(r"\d+\.\d+\.\d+", tag), f"{name}: {service['image']}"


def test_what_services_need_of_one_another_is_there() -> None:
    whole = compose()
    services = whole["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= services.keys(), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in whole["volumes"], (
                f"{name}: {source}"
            )


def test_prometheus_asks_the_services_where_they_listen_and_grafana_asks_prometheus() -> None:
    services = compose()["services"]
    asked: dict[str, int] = {}
    for job in read(DOCKER / "prometheus.yml")["scrape_configs"]:
        [found] = job["dns_sd_configs"]
        assert found["type"] == "A"
        asked |= dict.fromkeys(found["names"], found["port"])
    assert asked.keys() == {"worker", "trainer", "monitor", "gateway", "bandit"}
    for name, port in asked.items():
        given = environment(services[name])
        assert given[f"SAMSTREAM_{name.upper()}__METRICS"] == f"0.0.0.0:{port}"
        assert f"127.0.0.1:{port}/health" in " ".join(services[name]["healthcheck"]["test"])
    mounts = dict(volume.split(":")[:2] for volume in services["prometheus"]["volumes"])
    assert mounts["./prometheus.yml"] == "/etc/prometheus/prometheus.yml"
    [rules] = read(DOCKER / "prometheus.yml")["rule_files"]
    assert mounts[f"./{ALERTS.relative_to(DOCKER)}"] == f"/etc/prometheus/{rules}"
    [source] = read(DOCKER / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = read(DOCKER / "grafana/provisioning/dashboards/samstream.yml")["providers"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
