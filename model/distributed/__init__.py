"""A learner on several processes: rows of tables divided among them, the dense part on all, one step together."""
