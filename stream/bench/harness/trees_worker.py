"""A worker that answers with LightGBM in place of the network of its arm; all else of the worker is as it is.

`python -m stream.bench.harness.trees_worker FILE NAME -m stream.cli worker …` runs the command so, with the trees of
FILE, grown with the setting NAME. The arm must read what the trees do, as `counts` does. Other commands run as usual.
"""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from model.example import Example
from model.predict import Predictions
from model.scorer import Scorer
from stream.bench.harness.trees import SETTINGS, ServedTrees


def launcher(file: Path, setting: str) -> tuple[str, ...]:
    """Return the arguments of Python that run a module with its worker answering by the trees of a file."""
    return "-m", __name__, str(file), setting


def main() -> None:
    """Run `-m MODULE COMMAND …`, with trees where the command is `worker`."""
    _, file, setting, _, module, command, *_ = sys.argv
    if command == "worker":
        trees = ServedTrees(Path(file), SETTINGS[setting])

        def score(self: Scorer, examples: Sequence[Example]) -> Predictions:  # noqa: ARG001
            return trees.score(examples)

        Scorer.score = score  # type: ignore[method-assign]
    sys.argv = sys.argv[4:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
