"""What every process needs: logs, metrics, progress, signals. Knows no Kafka and no model."""
