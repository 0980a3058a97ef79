"""Tests of `stream/bench`."""
