"""Looks the pinned packages up among known vulnerabilities with pip-audit; ends with 1 when one is found.

Where no vulnerability service answers, or it knows none of the packages (a mirror of the index), it says so and ends
with 0: then nothing is known, and that is no fault of the packages. Run it in an environment that has pip-audit.
"""

import json
import subprocess
import sys

_UNREACHABLE = ("requests.exceptions.", "urllib3.exceptions.", "ConnectionError", "ServiceError")


def main(requirements: str) -> int:
    """Audit a file of pinned requirements; returns the exit status."""
    options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json")
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--requirement", requirements, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if any(name in why for name in _UNREACHABLE):
            print(f"== no vulnerability service answers, so the dependencies were NOT audited: {why[:200]} ==")
            return 0
        print(f"pip-audit failed: {done.stderr}", file=sys.stderr)
        return 2
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    found = [(package, flaw) for package in packages for flaw in package.get("vulns", ())]
    for package, flaw in found:
        fixed = ", ".join(flaw.get("fix_versions", ())) or "no version yet"
        print(f"{package['name']} {package['version']}: {flaw['id']}, fixed in {fixed}", file=sys.stderr)
    if len(unknown) == len(packages):
        print("== the vulnerability service knows none of the packages, so the dependencies were NOT audited ==")
    else:
        print(
            f"{len(packages) - len(unknown)} of {len(packages)} pinned packages audited, {len(found)} vulnerabilities"
        )
        if unknown:
            print(f"not known to the service: {', '.join(unknown)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
