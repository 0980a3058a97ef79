"""Graphs of a scoring module: torch.export and ONNX, each tried against the module before it is handed out."""

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.errors import ExportError
from model.export.kinds import fixed_length
from model.export.module import Input, Inputs, ScoringModule, inputs_of
from model.spec import ModelSpec

LARGEST_DIFFERENCE = 1e-4
"""Between a probability of a graph and the scorer's; float32 in another order of addition differs by some 1e-7."""
_OPSET = 18

Run = Callable[[Inputs], Tensor]
"""Gives (C,) probabilities."""


def write_torch_export(module: ScoringModule, path: Path) -> Run:
    """Write a module as a `torch.export` program; returns what runs the file.

    Raises:
        ExportError: for a kind that is no graph.
    """
    torch.export.save(_program(module), path)
    loaded = torch.export.load(path).module()
    return lambda inputs: loaded(dict(inputs))


def write_onnx(module: ScoringModule, path: Path) -> Run | None:
    """Write a module as an ONNX graph; returns what runs the file, None where onnxruntime is not installed.

    Raises:
        ExportError: for a kind that is no graph, and where onnx or onnxscript are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(f"--format onnx needs {error.name}: pip install 'samstream[onnx]'") from None
    program, names = _program(module), [each.name for each in inputs_of(module.network.spec)]
    try:
        with _quiet():
            exported: Any = torch.onnx.export(
                program, dynamo=True, input_names=names, output_names=["probabilities"], opset_version=_OPSET
            )
            exported.save(path)
    except Exception as error:
        kind, why = module.network.spec.kind, _reason(error)
        raise ExportError(
            f"kind {kind!r} cannot be exported as ONNX: {why}. --format torch.export writes it"
        ) from error
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    taken = {each.name for each in session.get_inputs()}

    def run(inputs: Inputs) -> Tensor:
        found = session.run(None, {name: each.numpy() for name, each in inputs.items() if name in taken})
        return torch.from_numpy(found[0])

    return run


@torch.inference_mode()
def check(module: ScoringModule, run: Run) -> float:
    """Run a graph beside the module that it was made of; returns the largest difference of a probability.

    Raises:
        ExportError: when they differ by more than `LARGEST_DIFFERENCE`, or the graph cannot take such inputs.
    """
    spec, largest = module.network.spec, 0.0
    longest = max(spec.length, 1)
    for seed, (length, candidates) in enumerate([(0, 1), (1, 3), (longest // 2, 2), (longest, 17)]):
        inputs = drawn_inputs(spec, length, candidates, seed=seed)
        try:
            found = run(inputs)
        except Exception as error:
            said = f"{length} behaviours and {candidates} candidates: {str(error).strip().splitlines()[0]}"
            raise ExportError(f"the graph of kind {spec.kind!r} does not take {said}") from error
        largest = max(largest, float((found - module(inputs)).abs().max()))
    if not largest <= LARGEST_DIFFERENCE:
        raise ExportError(
            f"the graph of kind {spec.kind!r} gives other probabilities than the scorer, by up to {largest:.2g}"
        )
    return largest


def drawn_inputs(spec: ModelSpec, behaviours: int, candidates: int, *, seed: int) -> dict[str, Tensor]:
    """Return random inputs of one user, padded as the model's graph wants them; some candidates match the history."""
    generator = torch.Generator().manual_seed(seed)
    L = fixed_length(spec) or max(behaviours, 1)
    mask = torch.arange(L) < behaviours

    def draw(each: Input) -> Tensor:
        shape = [{"L": L, "C": candidates}.get(size, 0) if isinstance(size, str) else size for size in each.shape]
        if each.name == "history_mask":
            return mask
        if each.name == "history_ages_ms":
            found = torch.randint(0, 2**36, shape, generator=generator).sort(descending=True).values
        elif each.dtype == "int64":
            least = int(each.name.endswith("_items"))  # no item has key 0
            found = torch.randint(least, 30, shape, generator=generator)
        else:
            found = torch.randn(shape, generator=generator)
        if each.name.startswith("history_"):
            found = found * mask.view(-1, *[1] * (len(shape) - 1))
        return found

    return {each.name: draw(each) for each in inputs_of(spec)}


def _program(module: ScoringModule) -> torch.export.ExportedProgram:
    spec = module.network.spec
    fixed = fixed_length(spec)
    inputs = drawn_inputs(spec, fixed or 17, 5, seed=0)
    sizes = {"C": torch.export.Dim("C", min=1)} | ({} if fixed else {"L": torch.export.Dim("L", min=1)})
    dynamic = {each.name: {0: sizes[str(each.shape[0])]} if each.shape[0] in sizes else {} for each in inputs_of(spec)}
    try:
        # With gradients, the layers are torch's own rather than the kernels of serving.
        with _quiet(), torch.enable_grad():
            return torch.export.export(module, (inputs,), dynamic_shapes=(dynamic,), strict=False)
    except Exception as error:
        raise ExportError(f"kind {spec.kind!r} cannot be exported as a graph: torch says {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the first line of what an error began with: torch wraps it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\x1b\[\d+m", "", str(error).strip().splitlines()[0] if str(error).strip() else repr(error))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch prints while it looks at a model; what goes wrong comes as an exception."""
    before = logging.root.manager.disable
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        logging.disable(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(before)
