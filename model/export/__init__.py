"""Models as modules that other servers can run: one user, some candidates, probabilities."""
