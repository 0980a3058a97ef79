"""Python's cyclic garbage collector, set for a process that lives long and makes many short-lived objects."""

import gc


def tune_gc() -> None:
    """Take what exists now as permanent, and look for new cycles seldom; call it when start-up is over.

    torch alone brings some hundred thousand objects, which every full collection would walk through. What the work on
    records makes holds no cycles and goes by reference counts; the collector only has to find what errors leave behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
