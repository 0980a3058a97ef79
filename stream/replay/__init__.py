"""Real data through a running system, judged progressively."""
