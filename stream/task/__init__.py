"""The work on one partition: decode, merge, fold, join. Imports no Kafka client."""
