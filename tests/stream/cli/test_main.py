"""The entry point: quick to start, and errors become exit statuses."""

import subprocess
import sys

import pytest

from model.export.write import FORMATS
from stream.cli.export import _FORMATS
from stream.cli.main import main

HEAVY = ("torch", "faust", "matplotlib", "scipy", "pandas", "pyarrow")


def test_help_loads_no_heavy_library() -> None:
    code = f"import sys, stream.cli.main; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_an_error_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "check", "--set", "worker.no_such_key=1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("samstream topics: ")
    assert "no_such_key" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["demo", "--workers", "0"], "at least 1"),
        (["demo", "--pre-impressions", "-1"], "not be negative"),
        (["dead-letters", "list", "--offsets", "a-b"], "5-17"),
        (["bench", "nothing"], "latency"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_is_right(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_formats_are_those_that_can_be_written() -> None:
    assert _FORMATS == FORMATS
