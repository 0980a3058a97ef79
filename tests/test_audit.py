"""The audit of CI fails for what is known to be vulnerable, and says so where nothing can be known."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOUND = {"name": "sound", "version": "1", "vulns": []}
FLAWED = {"name": "flawed", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}


def audit(directory: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run the audit with a pip-audit that does what `program` says."""
    (directory / "pip_audit.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(directory)}
    line = [sys.executable, ".ci/audit.py", "constraints.txt"]
    return subprocess.run(line, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(
    ("packages", "status", "words"),
    [
        ([SOUND, SOUND], 0, "2 of 2 pinned packages audited, 0 vulnerabilities"),
        ([SOUND, FLAWED], 1, "flawed 2: CVE-1, fixed in 3"),
        ([SOUND, UNKNOWN], 0, "not known to the service: unknown"),
        ([UNKNOWN, UNKNOWN], 0, "NOT audited"),
    ],
)
def test_what_pip_audit_finds_decides(tmp_path: Path, packages: list[object], status: int, words: str) -> None:
    done = audit(tmp_path, f"print({json.dumps({'dependencies': packages})!r})")
    assert done.returncode == status, done.stderr
    assert words in done.stdout + done.stderr


def test_a_service_that_does_not_answer_is_no_fault_but_a_broken_tool_is(tmp_path: Path) -> None:
    done = audit(tmp_path, "import sys; sys.exit('requests.exceptions.ConnectionError: no route')")
    assert done.returncode == 0
    assert "NOT audited: requests.exceptions.ConnectionError: no route" in done.stdout
    done = audit(tmp_path, "raise TypeError('broken')")
    assert done.returncode == 2
    assert "broken" in done.stderr
