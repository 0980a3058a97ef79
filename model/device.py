"""The device of tensors, and the process's threads and memory for torch."""

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


def configure_torch(*, threads: int) -> None:
    """Set torch's threads, and have glibc keep up to 1 GiB of freed memory (Linux; nothing elsewhere).

    Every batch allocates and frees tensors of some MB. If they were returned to the system each time, page faults would
    cost some 15% of training time.

    Args:
        threads: of torch's operations, in this process.
    """
    torch.set_num_threads(threads)
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
            mallopt(_M_TRIM_THRESHOLD, _KEPT)
