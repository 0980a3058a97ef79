"""A Faust application: counts of `outcomes`, `experiment-metrics`, a page. Imports `experiment`, `kafka` and below."""
