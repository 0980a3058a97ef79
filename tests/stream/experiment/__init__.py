"""Tests of `stream.experiment`."""
