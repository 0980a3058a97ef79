"""The documents are current: what is generated, what they link to and name, and README's example."""

import importlib.util
import json
import math
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from confluent_kafka import Message
from scipy.stats import chisquare

from docs.generator.markdown import parts
from docs.generator.measured import ROOT, Entry, MeasuredError, load, read_result, save
from docs.generator.pages import COMMAND, stale
from docs.generator.tables import render
from stream.experiment.plan import read as read_experiment
from stream.experiment.power import required_sample_sizes
from stream.experiment.statistics.sample_ratio import srm_p_value
from stream.kafka.producer import ReliableProducer
from stream.kafka.reader import TopicReader
from stream.report.findings import Target, to_json
from stream.report.machine import this_machine, this_run
from stream.schema.events import Score, Spent, decode_click, decode_impression, encode_json
from stream.schema.topics import Topics
from stream.settings import Settings
from stream.simulation.config import WorldConfig, with_changes
from stream.simulation.world import World

PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SITE = (
    "kafka",
    "gateway",
    "settings",
    "operations",
    "limits",
    "models",
    "experiments",
    "performance",
    "architecture",
    "world",
)


def test_generated_parts_are_current() -> None:
    old = [str(path.relative_to(ROOT)) for path in stale()]
    assert not old, f"{', '.join(old)} is not what the code and docs/measured.json say: run `{COMMAND}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", _without_code(page.read_text())):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in _anchors(file), f"{page.name} links to {target}; {file.name} has {sorted(_anchors(file))}"


def test_every_page_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in SITE if f"(docs/{name}.md)" not in text] == []
    assert len(text.splitlines()) <= 170


def test_tests_that_the_documents_name_are_there() -> None:
    known = set(
        re.findall(r"def (test_\w+)", "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py")))
    )
    known |= {file.stem for file in (ROOT / "tests").rglob("test_*.py")}
    for page in PAGES:
        named = set(re.findall(r"`(test_\w+)`", page.read_text()))
        assert named <= known, f"{page.name} names tests that are not there: {sorted(named - known)}"


def test_files_that_the_documents_name_are_there() -> None:
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            for name in re.findall(r"`((?:stream|model|state|tests|docker)/[\w./-]+)`", page.read_text()):
                assert (ROOT / name).exists() or (ROOT / f"{name}.py").exists(), f"{page.name} names {name}"


def test_the_architecture_says_what_each_folder_holds() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    [section] = re.findall(r"## Packages and folders\n(.*?)\n## ", text, re.DOTALL)
    tables = "".join(line for line in section.splitlines() if line.startswith("|"))
    folders = {
        file.parent.name
        for package in ("stream", "model")
        for file in (ROOT / package).rglob("*.py")
        if file.parent.name != package
    }
    assert sorted(folder for folder in folders if f"`{folder}`" not in tables) == []


def test_settings_that_the_documents_name_are_there() -> None:
    sections = {name: type(getattr(Settings(), name)) for name in Settings.__struct_fields__}
    named = re.compile(r"`(?:--set )?(topics|state|worker|trainer|monitor|gateway)\.([a-z_]+)[`=]")
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            for section, key in named.findall(page.read_text()):
                known = sections[section].__struct_fields__
                a_module = importlib.util.find_spec(section) and importlib.util.find_spec(f"{section}.{key}")
                assert key in known or a_module, f"{page.name} names {section}.{key}; there are {', '.join(known)}"


def test_modules_of_the_api_pages_are_there() -> None:
    modules = re.findall(r"^::: (\S+)$", "\n".join(page.read_text() for page in PAGES), re.MULTILINE)
    assert modules
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


@pytest.mark.long
def test_the_readme_lists_the_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "stream.cli", "--help"], capture_output=True, text=True, check=True)
    commands = set(re.findall(r"^    ([a-z-]+)\b", done.stdout, re.MULTILINE))
    listed = {name.split()[0] for name in re.findall(r"^\| `samstream ([a-z -]+)`", _readme(), re.MULTILINE)}
    assert commands == listed


@pytest.mark.timeout(120)
def test_the_readmes_example_runs(kafka: dict[str, str], topics: Topics) -> None:
    code = re.findall(r"```python\n(.*?)```", _readme(), re.DOTALL)
    [example] = code
    prefix = topics.behaviors.removesuffix("behaviors")
    example = example.replace("localhost:9092", kafka["bootstrap.servers"]).replace("Topics()", f"Topics({prefix!r})")
    example = example.replace("timeout=5.0", "timeout=60.0")  # a slow machine is no fault of the example
    worker = threading.Thread(target=_answer_one, args=(kafka, topics))
    worker.start()
    known: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), known)
    worker.join(60)
    clicks = TopicReader(kafka, [topics.clicks], from_beginning=True)
    messages: list[Message] = []
    while not clicks.at_end():
        messages += clicks.read(0.1)
    clicks.close()
    [click] = [decode_click(message.value() or b"") for message in messages]
    assert (click.request, click.item) == (known["request"], "lamp")


def test_the_assignment_can_be_written_again_from_the_page() -> None:
    known: dict[str, Any] = {"math": math, "xxhash": xxhash}
    text = (ROOT / "docs/experiments.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "experiments.md", "exec"), known)
    found = [known["arm"](f"u{number}", "spring-test", {"sam": 1, "din": 1}) for number in range(1, 13)]
    assert f"are in\n{', '.join(found)}." in text


def test_the_simulated_world_can_be_asked_as_its_page_says() -> None:
    known: dict[str, Any] = {"World": World, "WorldConfig": WorldConfig, "np": np, "ts": 0}
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/world.md").read_text(), re.DOTALL)
    exec(compile(code, "world.md", "exec"), known)
    assert known["truth"].shape[0] == 400
    assert 0 < known["truth"].min() < known["truth"].max() < 1


def test_the_numbers_of_the_simulated_world_go_by_the_names_on_its_page() -> None:
    text = (ROOT / "docs/world.md").read_text()
    [table] = re.findall(r"\| what \| numbers \(default\) \|\n(.*?)\n\n", text, re.DOTALL)
    named = dict(re.findall(r"`(\w+)` \(([−\d.]+)", table))
    assert len(named) > 20
    changes = [f"{name}={value.replace('−', '-')}" for name, value in named.items()]
    assert with_changes(WorldConfig(), changes) == WorldConfig()


def test_the_experiment_on_its_page_can_be_run(tmp_path: Path) -> None:
    [text] = re.findall(r"```toml\n(# experiment\.toml\n.*?)```", (ROOT / "docs/experiments.md").read_text(), re.DOTALL)
    file = tmp_path / "experiment.toml"
    file.write_text(text)
    experiment = read_experiment(file)
    assert [arm.name for arm in experiment.arms] == ["sam-1000", "sam-200"]
    assert experiment.crowd.icc == 0.02
    anytime, once = required_sample_sizes(experiment)
    said = f"{anytime.users:,} users or {anytime.impressions:,} impressions; one look at the end would take"
    assert f"{said} {once.users:,})" in _one_line(ROOT / "docs/experiments.md")


def test_the_sample_ratio_on_its_page_has_these_p_values() -> None:
    anytime, once = srm_p_value([5200, 4800], [1.0, 1.0]), float(chisquare([5200, 4800]).pvalue)
    said = f"5,200 to 4,800 has p = {anytime:.1g}, by chi-square at one look {once:.5f}"
    assert said in _one_line(ROOT / "docs/experiments.md")


def test_a_benchmarks_json_becomes_an_entry_and_a_table(tmp_path: Path) -> None:
    rows = [{"touched rows": 100, "swap, ms": 0.25}]
    targets = [Target("pause at 100 touched rows, median", 0.25, "ms", 5.0).as_json()]
    run = this_run("samstream bench sync")
    file = tmp_path / "sync.json"
    file.write_bytes(
        to_json({"bench": "sync", "machine": this_machine(), "run": run, "results": rows, "targets": targets})
    )
    name, entry = read_result(file, note="nothing else running")
    save({name: entry}, tmp_path / "measured.json")
    text = render(load(tmp_path / "measured.json"), "sync")
    assert "`samstream bench sync`" in text
    assert "nothing else running" in text
    assert "| 100 | 0.25 |" in text
    assert "| pause at 100 touched rows, median | 0.25 ms | at most 5 ms | met |" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bench": "sync", "results": [], "run": {"date": "", "command": "samstream bench sync --quick"}}, "quick run"),
        ({"lab": "arms", "setting": {"quick": True}, "tables": {}}, "quick run"),
        ({"something": "else"}, "is no result"),
        ([], "is no result"),
    ],
)
def test_what_must_not_be_documented_is_refused(tmp_path: Path, content: object, message: str) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps(content))
    with pytest.raises(MeasuredError, match=message):
        read_result(file)


def test_a_missed_target_is_said() -> None:
    target = {"name": "p99", "value": 40.0, "unit": "ms", "target": 30.0, "sense": "at most", "met": False}
    entry = Entry(result={"bench": "state", "results": [{"what": "read", "median": 1.0}], "targets": [target]})
    assert "| p99 | 40 ms | at most 30 ms | **missed** |" in render({"state": entry}, "state")


def test_every_measurement_is_shown_on_some_page() -> None:
    shown = {name for page in PAGES for name in parts(page.read_text())}
    parts_of_others = ("demo-", "learning-", "lab-models-", "replay-")
    own = {name for name in load() if not name.startswith(parts_of_others) and not name.endswith("-avx2")}
    assert own <= shown


def _answer_one(kafka: dict[str, str], topics: Topics) -> None:
    """Answer the first impression as a worker would: the last candidate is the best."""
    reader = TopicReader(kafka, [topics.impressions], from_beginning=True)
    messages: list[Message] = []
    while not messages:
        messages = reader.read(0.1)
    reader.close()
    impression = decode_impression(messages[0].value() or b"")
    items = [candidate.item for candidate in impression.candidates]
    score = Score(
        request_id=impression.request_id,
        user=impression.user,
        ts=impression.ts,
        arm="sam",
        epoch=1,
        version=1,
        items=items,
        probabilities=[0.1 * (place + 1) for place in range(len(items))],
        order=list(reversed(range(len(items)))),
        slots=impression.slots,
        seen=1,
        spent_ms=Spent(1.0, 1.0, 1.0, 1.0),
        read_to=0,
    )
    producer = ReliableProducer(kafka)
    producer.send(topics.scores, encode_json(score), key=impression.user)
    producer.flush()


def _readme() -> str:
    return (ROOT / "README.md").read_text()


def _one_line(page: Path) -> str:
    return " ".join(page.read_text().split())


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def _anchors(file: Path) -> set[str]:
    """Return the anchors of a page's headings, as Python-Markdown and GitHub make them of plain words."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}
