"""The Helm chart makes what Kubernetes takes, runs the jobs as the code has them, and says what can be set.

Where `helm` is installed it renders the templates, else `tests.helm_template` does.
"""

import json
import re
import shutil
import subprocess
from collections.abc import ItemsView
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from stream.cli.main import main
from stream.schema.topics import Topics
from stream.settings import Settings, load
from tests.helm_template import render

ROOT = Path(__file__).parent.parent
CHART = ROOT / "docker/helm/samstream"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
FULL = {
    "settings": {
        "topics": {"prefix": "shop-"},
        "arms": [{"name": "sam-1000"}, {"name": "din", "preset": "din"}],
        "bandit": {"explore": 0.2},
    },
    "secret": "kafka-credentials",
    "imagePullSecrets": [{"name": "registry"}],
    "volumes": [{"name": "ca", "secret": {"secretName": "kafka-ca"}}],
    "volumeMounts": [{"name": "ca", "mountPath": "/etc/kafka-ca"}],
    "worker": {"nodeSelector": {"disk": "ssd"}, "storageClass": "local", "tolerations": [{"operator": "Exists"}]},
    "gateway": {"enabled": True, "replicas": 3, "keysSecret": "keys", "allowAnonymous": True},
    "bandit": {"enabled": True, "nodeSelector": {"disk": "ssd"}, "tolerations": [{"operator": "Exists"}]},
    "keda": {"enabled": True, "authentication": "kafka"},
    "prometheus": {"serviceMonitor": True, "rules": True, "labels": {"release": "prometheus"}},
}
JOBS = ("worker", "trainer", "monitor")
Objects = list[dict[str, Any]]


def made(values: dict[str, Any], tmp_path: Path) -> Objects:
    if not (helm := shutil.which("helm")):
        return render(CHART, values)
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    command = [helm, "template", "shop", str(CHART), "--values", str(tmp_path / "values.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [each for each in yaml.safe_load_all(done.stdout) if each is not None]


@pytest.fixture(params=[{}, FULL], ids=["defaults", "all that can be set"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return made(request.param, tmp_path)


def named(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def workloads(objects: Objects) -> Objects:
    return [each for each in objects if each["kind"] in ("StatefulSet", "Deployment", "Job")]


def settings(objects: Objects, job: dict[str, Any], tmp_path: Path) -> Settings:
    """Return the settings that a pod runs with: its file, then its environment."""
    [volume] = [each for each in pod(job)["volumes"] if each["name"] == "settings"]
    file = tmp_path / "samstream.json"
    file.write_text(named(objects, "ConfigMap", volume["configMap"]["name"])["data"]["samstream.json"])
    [container] = pod(job)["containers"]
    environ = {each["name"]: _value(each) for each in container.get("env", ())}
    return load(file, environ=environ)


def _value(variable: dict[str, Any]) -> str:
    """Return what the first pod gets."""
    if "value" in variable:
        return str(variable["value"])
    name = variable["valueFrom"]["fieldRef"]["fieldPath"]
    return {"metadata.name": "pod-0", "metadata.labels['apps.kubernetes.io/pod-index']": "0"}[name]


@pytest.mark.long
def test_kubernetes_takes_what_it_makes(objects: Objects) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="needs pip install kubernetes-validate")
    own = [each for each in objects if each["apiVersion"].split("/")[0] not in ("keda.sh", "monitoring.coreos.com")]
    assert len(own) >= 10
    for version in ("1.28", "1.34"):
        for each in own:
            kubernetes.validate(each, version, strict=True)


def test_names_are_given_once_and_what_is_named_is_there(objects: Objects) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)
    for each in workloads(objects):
        spec = pod(each)
        volumes = {volume["name"] for volume in spec["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", ())}
        for container in spec["containers"]:
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == volumes, each["metadata"]["name"]
        for volume in spec["volumes"]:
            if "configMap" in volume:
                named(objects, "ConfigMap", volume["configMap"]["name"])


def test_selectors_find_the_pods_that_they_are_for(objects: Objects) -> None:
    for job in JOBS:
        workload = named(objects, "StatefulSet", f"shop-{job}")
        labels = workload["spec"]["template"]["metadata"]["labels"].items()
        service = named(objects, "Service", workload["spec"]["serviceName"])
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels
        assert service["spec"]["selector"].items() <= labels
        others = [each for each in workloads(objects) if each is not workload]
        for other in others:
            theirs = other["spec"]["template"]["metadata"]["labels"].items()
            assert not service["spec"]["selector"].items() <= theirs
    budget = named(objects, "PodDisruptionBudget", "shop-worker")["spec"]
    worker = named(objects, "StatefulSet", "shop-worker")["spec"]["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= worker.items()


def test_every_job_is_a_command_with_settings_that_are_settings(objects: Objects, tmp_path: Path) -> None:
    for each in workloads(objects):
        [container] = pod(each)["containers"]
        command = container["args"][0]
        assert container["args"][-2:] == ["--config", "/etc/samstream/samstream.json"]
        with pytest.raises(SystemExit, match="0"):
            main([*container["args"], "--help"])
        found = settings(objects, each, tmp_path)
        assert found.kafka["bootstrap.servers"] == "kafka:9092"
        if command in (*JOBS, "gateway", "bandit"):
            assert getattr(found, command).metrics == "0.0.0.0:9100"
            assert found.kafka.get("group.instance.id") == ("pod-0" if command == "worker" else None)


def test_state_lies_on_the_volume_where_the_image_has_it(objects: Objects) -> None:
    image = (ROOT / "docker/Dockerfile").read_text()
    for job in JOBS:
        [container] = pod(named(objects, "StatefulSet", f"shop-{job}"))["containers"]
        [data] = [mount for mount in container["volumeMounts"] if mount["name"] == "data"]
        section = {"worker": "STATE", "trainer": "TRAINER", "monitor": "MONITOR"}[job]
        assert f"SAMSTREAM_{section}__DIRECTORY={data['mountPath']}" in image


@pytest.mark.long
def test_gateways_share_the_users_under_addresses_that_are_theirs(tmp_path: Path) -> None:
    objects = made(FULL, tmp_path)
    workload = named(objects, "StatefulSet", "shop-gateway")
    found = settings(objects, workload, tmp_path).gateway
    inside = workload["spec"]["serviceName"]
    assert found.peers == tuple(f"http://shop-gateway-{number}.{inside}:8080" for number in range(3))
    assert workload["spec"]["replicas"] == len(found.peers)
    assert found.address.endswith(":8080")
    assert named(objects, "Service", inside)["spec"]["clusterIP"] == "None"
    [mount] = [each for each in pod(workload)["containers"][0]["volumeMounts"] if each["name"] == "keys"]
    assert Path(found.keys).parent == Path(mount["mountPath"])
    one = made({"gateway": {"enabled": True, "replicas": 1}}, tmp_path)
    alone = settings(one, named(one, "StatefulSet", "shop-gateway"), tmp_path).gateway
    assert len(alone.peers) == 1
    assert not alone.allow_anonymous


@pytest.mark.long
def test_one_bandit_runs_where_the_values_say_so_and_prometheus_finds_it(tmp_path: Path) -> None:
    assert not [each for each in made({}, tmp_path) if each["metadata"]["name"] == "shop-bandit"]
    objects = made(FULL, tmp_path)
    bandit = named(objects, "Deployment", "shop-bandit")
    assert (bandit["spec"]["replicas"], bandit["spec"]["strategy"]) == (1, {"type": "Recreate"})
    assert settings(objects, bandit, tmp_path).bandit.on
    assert bandit["spec"]["selector"]["matchLabels"].items() <= _labels(bandit)
    service = named(objects, "Service", "shop-bandit")
    found = [each for each in workloads(objects) if service["spec"]["selector"].items() <= _labels(each)]
    assert found == [bandit]
    scraped = named(objects, "ServiceMonitor", "shop")["spec"]
    assert scraped["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][scraped["jobLabel"]] == "bandit"
    assert scraped["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def _labels(workload: dict[str, Any]) -> ItemsView[str, str]:
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels.items()


@pytest.mark.long
def test_other_settings_make_other_pods(tmp_path: Path) -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = named(made(values, tmp_path), "StatefulSet", "shop-worker")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/settings"])

    assert checksum({}) == checksum({}) != checksum(FULL)


def test_workers_scale_by_the_lag_of_their_own_group_and_topic(tmp_path: Path) -> None:
    objects = made(FULL, tmp_path)
    [trigger] = named(objects, "ScaledObject", "shop-worker")["spec"]["triggers"]
    worker = named(objects, "StatefulSet", "shop-worker")
    found = settings(objects, worker, tmp_path)
    assert trigger["metadata"]["consumerGroup"] == found.worker.group
    assert trigger["metadata"]["topic"] == Topics(found.topics.prefix).impressions
    assert trigger["metadata"]["bootstrapServers"] == found.kafka["bootstrap.servers"]
    assert "replicas" not in worker["spec"], "an upgrade would undo what was scaled"


def test_the_alerts_of_the_cluster_are_those_of_the_compose_file(tmp_path: Path) -> None:
    rules = named(made(FULL, tmp_path), "PrometheusRule", "shop")["spec"]
    assert rules == yaml.safe_load((CHART / "files/alerts.yml").read_text())


def leaves(values: dict[str, Any], path: str = "") -> set[str]:
    found = set()
    for name, value in values.items():
        here = f"{path}.{name}"
        free = here == ".settings" or name == "resources"
        found |= leaves(value, here) if isinstance(value, dict) and value and not free else {here}
    return found


def test_every_value_is_read_and_every_value_that_is_read_is_there() -> None:
    text = "".join(file.read_text() for file in (CHART / "templates").iterdir())
    read = set(re.findall(r"\.Values((?:\.\w+)+)", text))
    known = leaves(VALUES)
    assert {path for path in known if path not in read} == set()
    free = (".settings.",)
    assert {path for path in read - known if not path.startswith(free)} == set()


def test_the_schema_takes_the_values_and_names_what_it_does_not_know() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    assert list(validator.iter_errors(VALUES)) == []
    for wrong in ({"worker": {"replica": 3}}, {"worker": {"replicas": 0}}, {"image": {"pullPolicy": "Now"}}):
        [error] = validator.iter_errors(wrong)
        assert any(str(word) in error.message for word in ("replica", "0", "Now"))
    leaf = {path.split(".")[1] for path in leaves(VALUES)}
    assert leaf | {"global"} == schema["properties"].keys()


def test_the_charts_version_is_the_packages() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    [version] = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert chart["version"] == chart["appVersion"] == version
