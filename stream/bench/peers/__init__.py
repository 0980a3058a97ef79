"""The same job written for other stream processors; each runs as a script, in an environment that has it installed."""
