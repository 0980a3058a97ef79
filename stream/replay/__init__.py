"""Real data through a running system, with a progressive validation. Imports the system's parts, not the commands."""
