"""Tests of `stream/runtime`."""
