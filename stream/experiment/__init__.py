"""The A/B laboratory: who is in which arm, what the arms are worth, and how sure that is. Knows no Kafka, no torch."""
