"""The gateway against whatever its own OpenAPI description allows, and what it does not: no server error."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from stream.kafka.dead_letters import read_dead_letters
from stream.kafka.offsets import GroupLag
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS
from tests.e2e.harness import Harness, wait_for
from tests.e2e.http_gateway import HttpGateway

schemathesis = pytest.importorskip(
    "schemathesis", reason="schemathesis is not installed: pip install -c constraints.txt schemathesis"
)


@schemathesis.serializer("application/x-ndjson")  # type: ignore[untyped-decorator, unused-ignore]
def serialize_lines(_: Any, value: Any) -> bytes:
    return value.encode(errors="surrogatepass") if isinstance(value, str) else json.dumps(value).encode()


MODES = ("positive", "negative")


@pytest.fixture
def api(kafka: dict[str, str], topics: Topics, topic_prefix: str, tmp_path: Path) -> Iterator[Any]:
    """The description of a gateway that nobody's scores reach; at the end, a worker takes what was written."""
    with Harness(kafka, topics, topic_prefix, tmp_path) as harness:
        gateway = HttpGateway(harness, "gateway.deadline_s=0.001", "gateway.max_unacknowledged=50000")
        yield schemathesis.openapi.from_url(f"{gateway.url}/docs/openapi.json")
        assert "request_failed" not in harness.processes.log(gateway.name).read_text()
        harness.start_worker("worker")
        inputs = (topics.behaviors, topics.impressions, topics.clicks)
        with closing(GroupLag(kafka, harness.settings.worker.group)) as lag:
            wait_for(lambda: not any(lag.of(topic, PARTITIONS) for topic in inputs), "a worker to take all")
        assert harness.read(topics.behaviors)
        assert harness.read(topics.impressions)
        assert not [letter.reason for letter in read_dead_letters(kafka, topics)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_call_is_a_server_error_and_every_answer_is_as_described(api: Any) -> None:
    called: Counter[str] = Counter()
    for found in api.get_all_operations():
        operation = found.ok()
        for mode in MODES if list(operation.body) else MODES[:1]:  # without a body, nothing can be wrong
            # Pytest's plugin of schemathesis wants an older pytest, so its strategies are used as they are.
            cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

            def call(case: Any) -> None:
                called[f"{operation.label} {case.media_type}"] += 1  # noqa: B023
                # A description cannot say that a `ts` must be of now, or that no item may be listed twice.
                case.call_and_validate(excluded_checks=[schemathesis.checks.CHECKS.get_one("positive_data_acceptance")])

            run: Callable[[], None] = settings(max_examples=150, suppress_health_check=list(HealthCheck))(
                given(cases)(call)  # type: ignore[no-untyped-call]
            )
            run()
    assert len(called) == 5
