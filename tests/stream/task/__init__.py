"""Tests of `stream/task`."""
