"""`docs/measured.json`: what was measured, one entry a measurement, and from where it is filled.

An entry has `date`, `command`, `machine` (a line), `note`, and `result`: the JSON as the command wrote it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "measured.json"


class MeasuredError(Exception):
    """A file that is no measurement, or none that may be documented."""


class Entry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One measurement.

    Attributes:
        date: when it ended, ISO 8601; empty when not known.
        command: what was run; empty for an earlier run of which only these figures were kept.
        machine: CPU, cores, memory and versions, in a line.
        note: what else a reader must know, such as the load of the machine.
        result: the JSON that the command wrote, without `machine` and `run`.
    """

    date: str = ""
    command: str = ""
    machine: str = ""
    note: str = ""
    result: dict[str, Any]


Measured = Mapping[str, Entry]


def load(file: Path = FILE) -> dict[str, Entry]:
    """Read all entries."""
    return msgspec.json.decode(file.read_bytes(), type=dict[str, Entry]) if file.exists() else {}


def save(entries: Measured, file: Path = FILE) -> None:
    """Write all entries, sorted by name."""
    file.write_text(json.dumps(msgspec.to_builtins(dict(sorted(entries.items()))), indent=1, ensure_ascii=False) + "\n")


def read_result(path: Path, name: str = "", note: str = "") -> tuple[str, Entry]:
    """Read a file that `bench`, `lab`, `replay`, `demo` or the fault campaign wrote; returns the entry and its name.

    Args:
        path: the JSON file.
        name: of the entry; by default what the file says that it is.
        note: for the reader.

    Raises:
        MeasuredError: when the file is none of these, comes from a run with `--quick`, or from a campaign that failed.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise MeasuredError(f"{path}: {error}") from None
    kind = _kind(content) if isinstance(content, dict) else ""
    if not kind:
        raise MeasuredError(f"{path} is no result of bench, lab, replay, experiment run or the fault campaign")
    run = content.pop("run", {})
    command = run.get("command") or _command(kind, content)
    if "--quick" in command or content.get("setting", {}).get("quick"):
        raise MeasuredError(f"{path} comes from a quick run, which only shows that it runs")
    if failures := content.get("failures"):
        raise MeasuredError(f"{path}: {', '.join(failures)} did not come to an end")
    entry = Entry(
        date=(run.get("date") or content.get("began") or "")[:10],
        command=command,
        machine=_machine_line(content.pop("machine", {})),
        note=note,
        result=_bare(content, kind),
    )
    return name or kind, entry


def _kind(content: Mapping[str, Any]) -> str:
    if "bench" in content:
        return str(content["bench"])
    if "lab" in content:
        return f"lab-{content['lab']}"
    if {"behaviors", "clicks", "samples", "kills"} <= content.keys():
        return "faults"
    if "dataset" in content:
        return "replay"
    return "demo" if "verdict" in content else ""


def _command(kind: str, content: Mapping[str, Any]) -> str:
    """What was run, of results that do not say it themselves."""
    if kind == "replay":
        settings = content["settings"]
        return f"samstream replay {content['dataset']} --arms {settings['arms']} --broker {_broker(settings['broker'])}"
    if kind == "demo":
        return f"samstream demo --broker {_broker(content['settings'].get('broker', 'embedded'))}"
    if kind.startswith("lab-"):
        chosen = {key: value for key, value in content.get("setting", {}).items() if value and key != "quick"}
        return " ".join(["samstream lab", content["lab"], *(f"--{key} {value:g}" for key, value in chosen.items())])
    return "make faults" if kind == "faults" else f"samstream bench {kind}"


def _broker(broker: object) -> str:
    return str(broker) if broker in ("embedded", "kafka") else "HOST:PORT"


def _bare(content: dict[str, Any], kind: str) -> dict[str, Any]:
    """Leave out of a report what no table shows: it is long, and another run writes it again."""
    if kind != "demo":
        return content
    shown = (
        "name", "seconds", "alpha", "impressions", "scores", "clicks", "samples_trained", "dead_letters", "latency_ms",
        "freshness_s", "settings",
    )  # fmt: skip
    arms = {name: {key: arm[key] for key in ("ctr", "clicks", "shown")} for name, arm in content["arms"].items()}
    pairs = [{key: pair[key] for key in ("arm", "against", "lift")} for pair in content["verdict"]["pairs"]]
    return {key: content[key] for key in shown if key in content} | {"arms": arms, "pairs": pairs}


def _machine_line(machine: Mapping[str, Any]) -> str:
    if not machine:
        return ""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    device = "" if machine.get("device", "cpu") == "cpu" else f", {machine['device']}"
    cpu = re.sub(r"\((R|TM)\)", "", machine["cpu"])
    return (
        f"{cpu}, {machine['cores']} cores, {machine['memory_gb']:g} GB{device}, Python {machine['python']}; {versions}"
    )
