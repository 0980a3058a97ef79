"""Tests of `stream/trainer`."""
