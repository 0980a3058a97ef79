"""Python's cyclic garbage collector, tuned for long-running processes with many short-lived objects."""

import gc


def tune_gc() -> None:
    """Freeze the objects that exist now, and collect cycles seldom; call it at the end of start-up.

    torch alone has some hundred thousand objects, which every full collection would visit. Objects of records hold no
    cycles and are freed by reference counting; the collector only has to find cycles that errors leave.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
