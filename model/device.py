"""Where tensors live, and how the process keeps memory for them."""

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT = 1 << 30
_LARGEST_MMAP_THRESHOLD = 1 << 25


def resolve(device: str) -> torch.device:
    """Return the torch device for a setting: `auto` is the GPU when there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def prepare(*, threads: int) -> None:
    """Set torch's threads, and have glibc keep up to 1 GiB of freed memory (Linux; nothing elsewhere).

    A batch makes and frees tensors of some MB over and over; returned to the system each time, their page faults cost
    some 15% of training time.
    """
    torch.set_num_threads(threads)
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
            mallopt(_M_TRIM_THRESHOLD, _KEPT)
