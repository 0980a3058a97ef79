"""Writes what the documents say of settings, metrics and measurements: `python -m docs.generator`."""
