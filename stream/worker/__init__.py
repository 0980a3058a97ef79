"""The worker: one member of the consumer group, with its consumer, scoring and producer."""
