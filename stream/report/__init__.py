"""Reports on experiments, replays and benchmarks: JSON, pictures, a page. Imports `experiment` and below."""
