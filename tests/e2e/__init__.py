"""The whole system on a real broker."""
