"""`python -m docs.generator`: writes the generated parts of the documents; `add FILE` takes up measurements first."""

import argparse
import sys
from pathlib import Path

from docs.generator.measured import MeasuredError, load, read_result, save
from docs.generator.pages import write


def main() -> int:
    """Run it; returns 1 when a file is no measurement, or one is missing."""
    parser = argparse.ArgumentParser(prog="python -m docs.generator", description=__doc__)
    actions = parser.add_subparsers(dest="action")
    add = actions.add_parser("add", help="put what bench, lab, replay, demo or faults wrote into docs/measured.json")
    add.add_argument("files", nargs="+", type=Path, metavar="FILE", help="the JSON that a command wrote")
    add.add_argument("--as", dest="name", default="", metavar="NAME", help="name of the entry, such as demo-busy")
    add.add_argument("--note", default="", help="what a reader must know, such as: nothing else running")
    arguments = parser.parse_args()
    try:
        if arguments.action == "add":
            save(load() | dict(read_result(file, arguments.name, arguments.note) for file in arguments.files))
        for path in write():
            print(f"wrote {path}")
    except MeasuredError as error:
        print(f"python -m docs.generator: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
