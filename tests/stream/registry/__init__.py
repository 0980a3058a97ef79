"""Tests of `stream/registry`."""
