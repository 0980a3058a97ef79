"""`samstream export`: writes an arm's model so that other servers can run it."""

import argparse
from pathlib import Path

from stream.cli.options import Commands, add_settings_command, load_settings

_FORMATS = ("safetensors", "torch.export", "onnx")
"""As `model.export.write.FORMATS`, which imports torch."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_settings_command(commands, "export", run, "write an arm's model so that other servers can run it")
    parser.add_argument("--arm", required=True, metavar="A", help="the arm")
    parser.add_argument("--format", required=True, choices=_FORMATS, help="of the model")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    text = "a checkpoint's folder (default: the newest in trainer.directory)"
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Write the export; returns the exit status."""
    from stream.trainer.export_arm import export_arm

    settings = load_settings(arguments)
    path, said = export_arm(settings, arguments.arm, arguments.out, arguments.format, arguments.checkpoint)
    length = said["L"]["exactly"] or f"any number up to {said['L']['most']}"
    print(f"{arguments.out}: arm {arguments.arm} of {path}; behaviours (L): {length}, candidates (C): any number")
    difference = said["largest_difference"]
    if difference is not None:
        print(f"tried: probabilities differ from the scorer's by at most {difference:.1g}")
    elif arguments.format == "onnx":
        print("not tried: onnxruntime is not installed")
    return 0
