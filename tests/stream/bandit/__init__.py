"""Tests of `stream/bandit`."""
