"""What the benchmarks share: timing, examples, load on a system, worlds of an A/B test."""
