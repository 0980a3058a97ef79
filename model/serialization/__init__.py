"""Weights on the wire and on disk: updates, their parts, checkpoints."""
