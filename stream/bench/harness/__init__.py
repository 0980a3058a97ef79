"""What the benchmarks share: timing, examples, load on a system, simulated A/B tests, the GPU's side of scoring."""
