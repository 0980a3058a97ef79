"""Progressive validation."""
