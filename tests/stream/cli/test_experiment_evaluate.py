"""`samstream experiment evaluate` on topics whose truth is known."""

import json
import random
import time
from pathlib import Path

import pytest

from stream.cli.main import main
from stream.experiment.assignment import Assignment
from stream.kafka.producer import ReliableProducer
from stream.schema.events import Outcome, Score, Shadow, Spent, encode_json, encode_packed
from stream.schema.topics import Topics
from tests.conftest import PARTITIONS

FILE = """
name = "shadow"
salt = "s-1"
[[arms]]
name = "a"
shadow = true
share = 3
[[arms]]
name = "b"
length = 50
shadow = true
[[arms]]
name = "c"
share = 0
shadow = true
learn_from = "all"
[[arms]]
name = "plain"
share = 0
learn = false
"""
ORDERS = {"a": [0, 1], "b": [1, 0]}
RATES = (0.2, 0.1)
"""Of the two candidates; `a` shows the first, `b` the second, and the shadow `c` one of them at random."""


def write(kafka: dict[str, str], topics: Topics, *, impressions: int) -> float:
    """Write scores and outcomes; returns the true click rate of `c`."""
    arm_of, rng = Assignment({"a": 3, "b": 1}, salt="s-1").arm, random.Random(5)
    sender, start, truth = ReliableProducer(kafka), round(1000 * time.time()) - 3_600_000, 0.0
    for number in range(impressions):
        user, ts, request = f"u{number % 800}", start + 200 * number, f"r{number}"
        partition, arm, chosen = number % 800 % PARTITIONS, arm_of(user), rng.choice("ab")
        truth += RATES[ORDERS[chosen][0]] / impressions
        shadows = [
            Shadow(name, 1, 1, ORDERS[chosen if name == "c" else name][:1], [0.3]) for name in "abc" if name != arm
        ]
        spent = Spent(wait=1.0, state=0.0, score=1.0)
        score = Score(request, user, ts, arm, 1, 1, ["x", "y"], [0.3, 0.2], ORDERS[arm], 1, 0, spent, shadows=shadows)
        sender.send(topics.scores, encode_json(score), partition=partition)
        item = ORDERS[arm][0]
        label = int(rng.random() < RATES[item])
        outcome = Outcome(request, user, arm, ts, 1, 1, [score.items[item]], [0], [0.3], [label])
        sender.send(topics.outcomes, encode_packed(outcome), partition=partition)
    sender.flush()
    return truth


def test_it_finds_what_nobody_was_shown(
    kafka: dict[str, str], topics: Topics, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "experiment.toml").write_text(FILE)
    prefix = topics.scores.removesuffix("scores")
    command = ["experiment", "evaluate", str(file), "--set", f"topics.prefix={prefix}"]
    command += ["--bootstrap", kafka["bootstrap.servers"]]
    truth = write(kafka, topics, impressions=8000)
    assert main([*command, "--arm", "c", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    for name in ("ips", "snips", "doubly_robust"):
        value, low, high = found[name]
        assert value == pytest.approx(truth, rel=0.1), name
        assert low < truth < high
    assert found["incomplete"] == found["unsupported"] == 0
    assert found["largest_weight"] == pytest.approx(4)
    assert main([*command, "--clip", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["a", "b", "c"]
    assert "largest weight 4" in lines[2]
    assert main([*command, "--arm", "plain"]) == 1
    assert "plain: no estimate: no impression says what a, b, plain would each have shown" in capsys.readouterr().err
    file.write_text(FILE.replace("share = 3", "share = 1"))
    assert main(command) == 1
    assert "users are not divided as the shares say" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "arguments", "said"),
    [
        ("shadow = true", ["--arm", "nobody"], "--arm nobody: the arms with a model are a, b, c, plain"),
        ("shadow = true", ["--clip", "0"], "the largest weight is above 0"),
        ("shadow = false", [], "no arm with shadow = true"),
    ],
)
def test_what_cannot_be_evaluated_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: str, arguments: list[str], said: str
) -> None:
    (file := tmp_path / "experiment.toml").write_text(FILE.replace("shadow = true", changed))
    assert main(["experiment", "evaluate", str(file), *arguments]) == 1
    assert said in capsys.readouterr().err


def test_check_says_which_arms_are_shadows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "experiment.toml").write_text(FILE.replace('learn_from = "all"', ""))
    assert main(["experiment", "check", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "Scored for every impression, without being shown (shadow): a, b, c." in printed
    assert 'arm c is a shadow without users: it learns nothing unless learn_from = "all"' in printed
    assert "arm plain has no share" in printed
    assert "arm c has no share" not in printed
