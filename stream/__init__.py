"""Everything that speaks Kafka: events, topics, worker, trainer, replay, simulation and the command line."""
