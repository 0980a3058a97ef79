"""The bandit: counts the clicks of the users who explore, and writes the shares of all others."""
