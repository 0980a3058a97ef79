"""The trainer: learns from samples, publishes updates, writes checkpoints."""
