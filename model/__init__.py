"""Everything that is torch: interest models, embeddings, the learner, updates and checkpoints."""
