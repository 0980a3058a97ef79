"""Progressive validation: rankers predict each sample of real visits before they learn from it; without Kafka."""
