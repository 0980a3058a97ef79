"""Guardrails: metrics that must not get worse, whatever the click rate does. Knows no Kafka."""
