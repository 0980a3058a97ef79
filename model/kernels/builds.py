"""Where compiled code lies that was built when samstream was installed. Imports no torch."""

import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def built(directory: Path, name: str) -> Path | None:
    """Return the file of an extension module; None where it was not built, or `SAMSTREAM_NATIVE` is 0."""
    if os.environ.get("SAMSTREAM_NATIVE") == "0":
        return None
    paths = (directory / f"{name}{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((path for path in paths if path.exists()), None)
