"""Kafka clients: consumers, producers, readers, topics, dead letters. Imports `schema`, `runtime` and `settings`."""
