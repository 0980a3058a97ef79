"""A/B tests: assignment, interleaving, verdicts over time, power. Imports `settings`, `schema` and below; no Kafka."""
