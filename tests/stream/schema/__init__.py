"""Tests of `stream/schema`."""
