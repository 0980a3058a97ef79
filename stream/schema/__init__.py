"""What travels through Kafka: events, topics, headers. Imports no Kafka client."""
