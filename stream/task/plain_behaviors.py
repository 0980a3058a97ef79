"""Plain behaviours out of JSON, in compiled code where it was built: ASCII, no escapes, none but the known fields."""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.kernels.builds import built
from state.behavior import BEHAVIOR, BehaviorArray, action_key, category_key, item_keys
from stream.schema.events import Behavior


def read_plain(
    values: Sequence[bytes | None], keys: Sequence[bytes | None] | None = None
) -> tuple[BehaviorArray, npt.NDArray[np.bool_]]:
    """Return the behaviours in values, and which of these were plain: the others must be decoded, and then packed.

    Without the compiled code none is plain.

    Args:
        values: N of records.
        keys: of the same records: only a behaviour of the user whom its key names is taken. None takes all.

    Returns:
        (N,) of dtype `BEHAVIOR`, unset where a value is not plain; (N,) which are.

    Raises:
        ValueError: when there are not as many keys as values.
    """
    if keys is not None and len(keys) != len(values):
        raise ValueError(f"{len(keys)} keys of {len(values)} values: give each value the key of its record")
    packed, plain = np.empty(len(values), BEHAVIOR), np.zeros(len(values), np.bool_)
    if (compiled := _library()) is not None:
        given = None if keys is None else list(keys)
        compiled.read_behaviors(list(values), given, packed.ctypes.data, plain.ctypes.data)
    return packed, plain


def pack_events(events: Sequence[Behavior]) -> BehaviorArray:
    """Return (N,) behaviours as they are kept, without their features."""
    packed = np.empty(len(events), BEHAVIOR)
    packed["item"] = item_keys([event.item for event in events])
    packed["category"] = [category_key(event.category) for event in events]
    packed["action"] = [action_key(event.action) for event in events]
    packed["ts"] = [event.ts for event in events]
    return packed


@cache
def _library() -> ctypes.PyDLL | None:
    """Return the compiled code; None where there is none."""
    if (path := built(Path(__file__).parent, "_plain_behaviors")) is None:
        return None
    library = ctypes.PyDLL(str(path))
    library.read_behaviors.argtypes = [ctypes.py_object, ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p]
    library.read_behaviors.restype = None
    return library
