"""Tests of `stream/simulation`."""
