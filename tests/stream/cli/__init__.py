"""Tests of `stream/cli`."""
