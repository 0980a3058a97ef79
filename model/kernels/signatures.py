"""The compiled functions of `model.kernels`, and what they take and return."""

import ctypes
from typing import Any

_pointer, _size = ctypes.c_void_p, ctypes.c_int64

SIGNATURES: dict[str, list[Any]] = {
    "passes": [*[_pointer] * 3, _size, *[_pointer] * 2, *[_size] * 2, *[_pointer] * 3, _size],
    "dense": [_pointer, _size, _pointer, _size, _size, _pointer],
    "matches": [*[_pointer] * 2, *[_size] * 4, _pointer, _size, *[_pointer] * 4],
    "match_features": [*[_pointer] * 3, *[_size] * 4, _pointer, ctypes.c_float, _pointer],
    "sums_by_key": [*[_pointer] * 3, *[_size] * 3, _pointer],
    "move_keys": [*[_pointer] * 4, _size, _pointer, *[_size] * 2, _pointer],
    "list_matches": [*[_pointer] * 3, *[_size] * 4, _pointer, _size, *[_pointer] * 4, _size],
    "count": [*[_pointer] * 3, *[_size] * 2, _pointer, *[_size] * 2, *[_pointer] * 3],
    "find_rows": [_pointer, _size, _pointer, *[ctypes.c_uint64] * 2, _size, _pointer],
    "distinct_rows": [_pointer, _size, *[_pointer] * 3],
    "gather_rows": [_pointer, _size, _pointer, _size, _pointer],
    "set_rows": [_pointer, *[_size] * 3, _pointer],
    "adagrad": [*[_pointer] * 2, _size, *[_pointer] * 2, _size, *[ctypes.c_float] * 2, *[_pointer] * 2],
    "embed_keys": [_pointer, _size, _pointer, _size, _pointer, *[_size] * 3, *[_pointer] * 2],
    "embed_keys_backward": [_pointer, _size, _pointer, _size, _pointer, *[_size] * 3, *[_pointer] * 3],
    "lay_out_keys": [_pointer] * 3,
    "attend": [*[_pointer] * 3, _size],
    "attend_backward": [*[_pointer] * 7, _size],
}
"""Function → the types of its arguments."""


def declare(library: ctypes.CDLL) -> bool:
    """Declare all functions of a library; False when it lacks one, as an older build does."""
    for name, types in SIGNATURES.items():
        if not hasattr(library, name):
            return False
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    library.list_matches.restype = library.distinct_rows.restype = _size
    return True
