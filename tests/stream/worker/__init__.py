"""Tests of `stream/worker`."""
