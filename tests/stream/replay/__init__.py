"""Tests of `stream/replay`."""
